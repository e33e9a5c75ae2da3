import time

import pytest
import torch
from lightning.pytorch import Callback
from scripted_run import FLOPS_OF_A_STEP, MemoryLogger, Questions, SaveAt, ScriptedMethod, fit

from lit_posttrain.errors import InputError
from lit_posttrain.ledger import Phase
from lit_posttrain.names import is_known
from lit_posttrain.tracking import axes
from lit_posttrain.tracking.compute import ComputeMeter
from lit_posttrain.tracking.probe import AccuracyProbe

ROLLOUT_S, STEP_S, IDLE_S, VALIDATION_S = 5.0, 2.0, 0.25, 3.0


class Clock:
    """Stands still unless told to go on."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def wait(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


class TimedMethod(ScriptedMethod):
    """Every batch takes a rollout of 5 s, 1/4 s of idling and 2 s of training."""

    def __init__(self, clock, **settings):
        super().__init__(**settings)
        self.clock = clock
        self.steps.on_fetch = self.collect

    def collect(self):
        with self.ledger.phase(Phase.ROLLOUT):
            self.clock.wait(ROLLOUT_S)
            self.ledger.add(flops=70.0, causal_flops=60.0, generated_tokens=7, positions=7)
        self.clock.wait(IDLE_S)

    def training_step(self, batch, batch_idx):
        self.clock.wait(STEP_S)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.clock.wait(VALIDATION_S)

    def val_dataloader(self):
        return Steps(2)


class Steps(list):
    def __init__(self, length):
        super().__init__(torch.zeros(length, 1))


def test_every_second_and_flop_is_in_one_phase(clock):
    logger, meter = MemoryLogger(), ComputeMeter()
    fit(TimedMethod(clock, batches=4), [meter], logger=logger, log_every_n_steps=2, num_sanity_val_steps=1)
    steps = dict(logger.of("time/device_seconds"))
    assert list(steps) == [2, 4]
    last = {name: value for step, metrics in logger.calls if step == 4 for name, value in metrics.items()}
    assert last["time/rollout_seconds"] == pytest.approx(4 * ROLLOUT_S, abs=1e-9)
    assert last["time/update_seconds"] == pytest.approx(4 * STEP_S, abs=1e-9)
    assert last["time/other_seconds"] == pytest.approx(4 * IDLE_S, abs=1e-9)
    assert last["time/device_seconds"] == pytest.approx(4 * (ROLLOUT_S + STEP_S + IDLE_S), abs=1e-9)
    assert last["time/evaluation_seconds"] == pytest.approx(3 * VALIDATION_S, abs=1e-9)  # one before training
    assert last["time/wall_seconds"] == pytest.approx(
        last["time/device_seconds"] + 2 * VALIDATION_S, abs=1e-9
    )
    assert last["compute/rollout_flops"] == 280.0
    assert last["compute/update_flops"] == 4 * FLOPS_OF_A_STEP
    phases = ("rollout", "grading", "scoring", "update")
    assert sum(last[f"compute/{phase}_flops"] for phase in phases) == last["compute/total_flops"]
    assert last["compute/total_causal_flops"] == 240.0
    assert (last["compute/tokens_generated"], last["compute/tokens_trained"]) == (28, 8)
    assert last["compute/tokens_processed"] == 4 * (7 + 4)
    assert all(is_known(name) for name in last if "/" in name)


@pytest.mark.parametrize("meter_first", [True, False])
def test_probes_cost_nothing_on_the_axis_wherever_they_stand(clock, meter_first):
    class SlowProbe(AccuracyProbe):
        def _probe(self, trainer, module):
            with module.ledger.phase(Phase.EVALUATION):
                clock.wait(50.0)
            super()._probe(trainer, module)

    probe, meter = SlowProbe(data=Questions(["a", "b"]), every_n_steps=2), ComputeMeter()
    method = TimedMethod(clock, batches=4)
    fit(method, [meter, probe] if meter_first else [probe, meter], limit_val_batches=0)
    assert [point["scurve/device_seconds"] for point in probe.points] == pytest.approx(
        [n * (ROLLOUT_S + STEP_S + IDLE_S) for n in (0, 2, 4)], abs=1e-9
    )
    assert meter.figures()["time/update_seconds"] == pytest.approx(4 * STEP_S, abs=1e-9)
    assert meter.figures()["time/evaluation_seconds"] == pytest.approx(150.0, abs=1e-9)


def test_the_axis_goes_on_after_a_resume(clock, tmp_path):
    whole = ComputeMeter()
    fit(TimedMethod(clock, batches=6), [whole], limit_val_batches=0)
    half = tmp_path / "half.ckpt"
    fit(TimedMethod(clock, batches=6), [ComputeMeter(), SaveAt(4, half)], limit_val_batches=0)
    clock.wait(10_000.0)  # nothing is held in between
    resumed = ComputeMeter()
    fit(TimedMethod(clock, batches=6), [resumed], limit_val_batches=0, ckpt_path=half)
    assert resumed.figures() == pytest.approx(whole.figures(), abs=1e-9)
    assert resumed.axes() == pytest.approx(whole.axes(), abs=1e-9)
    assert resumed.axes()["scurve/device_hours"] == pytest.approx(6 * 7.25 / 3600, abs=1e-12)


def test_hours_of_another_device_are_refused_or_converted(clock, tmp_path):
    half = tmp_path / "half.ckpt"
    fit(TimedMethod(clock, batches=4), [ComputeMeter(), SaveAt(2, half)], limit_val_batches=0)
    stored = torch.load(half, weights_only=True)
    stored["callbacks"]["ComputeMeter"]["device_type"] = "another device"
    torch.save(stored, half)
    again = {"limit_val_batches": 0, "ckpt_path": half}
    with pytest.raises(InputError, match="began on 'another device' and would go on on 'cpu'"):
        fit(TimedMethod(clock, batches=4), [ComputeMeter()], **again)
    meter = ComputeMeter(device_factor=0.5)
    fit(TimedMethod(clock, batches=4), [meter], **again)
    assert meter.axes()["scurve/device_seconds"] == pytest.approx((2 + 0.5 * 2) * 7.25, abs=1e-9)
    assert meter.figures()["time/other_seconds"] == pytest.approx(4 * IDLE_S, abs=1e-9)


def test_an_interrupted_step_leaves_the_books_closed(clock):
    class AfterException(Callback):
        def on_exception(self, trainer, pl_module, exception):
            assert pl_module.ledger._open == []

    with pytest.raises(SystemExit):
        fit(TimedMethod(clock, fail_at=2), [ComputeMeter(), AfterException()], limit_val_batches=0)


def test_books_survive_flattening():
    method = ScriptedMethod()
    with method.ledger.phase(Phase.SCORING):
        method.ledger.add(flops=3.0, positions=5)
    assert axes.unflatten(axes.flatten(method.ledger.spent)) == method.ledger.spent
