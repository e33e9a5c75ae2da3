import pytest
import torch
from lightning.pytorch import Callback
from scripted_run import LEARNING, MemoryLogger, Questions, ScriptedMethod, fit

from lit_posttrain.errors import InputError
from lit_posttrain.tracking.compute import ComputeMeter
from lit_posttrain.tracking.probe import AccuracyProbe
from lit_posttrain.tracking.stopping import BestOnProbe, EarlyStopOnProbe

UIDS = [f"q{i}" for i in range(20)]


class RisingThenFalling(ScriptedMethod):
    """Gets better for four steps, then worse."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss if int(batch) <= 4 else -loss


def probe(**settings):
    return AccuracyProbe(**{"data": Questions(UIDS), "every_n_steps": 1, **settings})


def skill(path):
    return float(torch.load(path, weights_only=True)["state_dict"]["policy.skill"])


def test_stops_after_as_many_probes_without_improvement():
    watched = probe()
    fit(RisingThenFalling(batches=30), [watched, ComputeMeter(), EarlyStopOnProbe(patience=2)])
    assert [point["step"] for point in watched.points] == [0, 1, 2, 3, 4, 5, 6]


def test_a_metric_that_the_probe_does_not_give_is_refused():
    with pytest.raises(
        InputError, match=r"'scurve/pass_at_8', which the probe does not give.*scurve/accuracy"
    ):
        fit(ScriptedMethod(), [probe(), ComputeMeter(), EarlyStopOnProbe(monitor="scurve/pass_at_8")])


def test_keeps_the_best_and_the_last(tmp_path):
    kept = BestOnProbe(tmp_path)
    fit(RisingThenFalling(batches=6), [kept, probe(), ComputeMeter()])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best-step4.ckpt", "last.ckpt"]
    assert kept.best_model_path == str(tmp_path / "best-step4.ckpt")
    assert skill(kept.best_model_path) == pytest.approx(4 * LEARNING)
    assert skill(tmp_path / "last.ckpt") == pytest.approx(2 * LEARNING)


def test_the_checkpoint_of_a_probe_knows_the_probe_and_the_books(tmp_path):
    fit(ScriptedMethod(batches=3), [BestOnProbe(tmp_path), probe(), ComputeMeter()])
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]
    assert [point["step"] for point in stored["AccuracyProbe"]["points"]] == [0, 1, 2, 3]
    assert stored["ComputeMeter"]["ledger"]["update"]["flops"] == 3000.0


def test_the_last_is_written_between_probes_and_at_the_end(tmp_path):
    kept = BestOnProbe(tmp_path, every_n_train_steps=2, save_top_k=0)
    seen = []

    class Spy(ScriptedMethod):
        def on_train_batch_start(self, batch, batch_idx):
            seen.append(skill(tmp_path / "last.ckpt") if (tmp_path / "last.ckpt").exists() else None)

    fit(Spy(batches=5), [kept, probe(every_n_steps=100, at_end=False), ComputeMeter()])
    assert seen == [None, None, 2 * LEARNING, 2 * LEARNING, 4 * LEARNING]
    assert skill(tmp_path / "last.ckpt") == 5 * LEARNING


@pytest.mark.parametrize("fail_at", [5, 6])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path, fail_at):
    """Interrupted in the first or the second of two accumulated batches: both are trained on again."""
    settings = {"batches": 12, "accumulate": 2}
    failing = ScriptedMethod(**settings, fail_at=fail_at)
    with pytest.raises(SystemExit):
        fit(failing, [BestOnProbe(tmp_path), probe(every_n_steps=100), ComputeMeter()])
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert skill(tmp_path / "last.ckpt") == pytest.approx(2 * LEARNING)
    resumed, again = ScriptedMethod(**settings), probe(every_n_steps=100)
    fit(resumed, [BestOnProbe(tmp_path), again, ComputeMeter()], ckpt_path=tmp_path / "last.ckpt")
    assert resumed.trained == [5, 6, 7, 8, 9, 10, 11, 12]
    assert [point["step"] for point in again.points] == [0, 6]
    assert float(resumed.policy.skill.detach()) == pytest.approx(6 * LEARNING)
    assert (tmp_path / "best-step6.ckpt").exists()


def test_nothing_is_saved_before_the_first_step(tmp_path):
    with pytest.raises(SystemExit):
        fit(ScriptedMethod(fail_at=1), [BestOnProbe(tmp_path), probe(), ComputeMeter()])
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_keeps_to_the_folder_of_its_logger(tmp_path):
    class NamedLogger(MemoryLogger):
        save_dir = str(tmp_path)

        def __init__(self, version):
            super().__init__()
            self.version = version

    class TakesTheOldName(Callback):
        def on_load_checkpoint(self, trainer, pl_module, checkpoint):
            trainer.logger.version = "old"

    old = tmp_path / "memory" / "old" / "checkpoints"
    with pytest.raises(SystemExit):
        fit(ScriptedMethod(fail_at=5), [BestOnProbe(), probe(), ComputeMeter()], logger=NamedLogger("old"))
    resumed = BestOnProbe()
    callbacks = [resumed, probe(), ComputeMeter(), TakesTheOldName()]
    fit(ScriptedMethod(), callbacks, logger=NamedLogger("new"), ckpt_path=old / "last.ckpt")
    assert sorted(path.name for path in old.iterdir()) == ["best-step8.ckpt", "last.ckpt"]
    assert not (tmp_path / "memory" / "new").exists()
    assert skill(old / "last.ckpt") == pytest.approx(8 * LEARNING)
