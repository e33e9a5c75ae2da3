import pytest
from lightning.pytorch import Callback
from scripted_run import Questions, ScriptedMethod, fit

from lit_posttrain.checkpoints.keeper import CheckpointKeeper
from lit_posttrain.errors import InputError
from lit_posttrain.tracking.compute import ComputeMeter
from lit_posttrain.tracking.probe import AccuracyProbe
from lit_posttrain.tracking.stopping import EarlyStopOnProbe

UIDS = [f"q{i}" for i in range(20)]


class RisingThenFalling(ScriptedMethod):
    """Gets better for four steps, then worse."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss if int(batch) <= 4 else -loss


def probe(**settings):
    return AccuracyProbe(**{"data": Questions(UIDS), "every_n_steps": 1, **settings})


def test_stops_after_as_many_probes_without_improvement():
    watched = probe()
    fit(RisingThenFalling(batches=30), [watched, ComputeMeter(), EarlyStopOnProbe(patience=2)])
    assert [point["step"] for point in watched.points] == [0, 1, 2, 3, 4, 5, 6]


def test_a_metric_that_the_probe_does_not_give_is_refused():
    with pytest.raises(
        InputError, match=r"'scurve/pass_at_8', which the probe does not give.*scurve/accuracy"
    ):
        fit(ScriptedMethod(), [probe(), ComputeMeter(), EarlyStopOnProbe(monitor="scurve/pass_at_8")])


class Fails(Callback):
    """Ends the run after a step, before it can end by itself."""

    def __init__(self, step):
        self.step = step

    def on_train_end(self, trainer, pl_module):
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("patience", "steps"), [(2, [0, 1, 2, 3, 4, 5, 6]), (3, [0, 1, 2, 3, 4, 5, 6, 7])])
def test_a_run_that_had_come_to_its_end_stays_there_unless_it_is_given_more_patience(
    tmp_path, patience, steps
):
    callbacks = [CheckpointKeeper(tmp_path), probe(), ComputeMeter(), Fails(6)]
    with pytest.raises(SystemExit):
        fit(RisingThenFalling(batches=30), [*callbacks, EarlyStopOnProbe(patience=2)])
    watched = probe()
    resumed = [CheckpointKeeper(tmp_path), watched, ComputeMeter(), EarlyStopOnProbe(patience=patience)]
    fit(RisingThenFalling(batches=30), resumed, ckpt_path=tmp_path / "last.ckpt")
    assert [point["step"] for point in watched.points] == steps
