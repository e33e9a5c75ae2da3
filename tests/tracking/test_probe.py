import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from scripted_run import (
    FLOPS_OF_A_STEP,
    LEARNING,
    MemoryLogger,
    Questions,
    SaveAt,
    ScriptedMethod,
    fit,
    threshold,
)

from lit_posttrain.batches import Sampling
from lit_posttrain.errors import InputError
from lit_posttrain.names import is_known
from lit_posttrain.tracking.compute import ComputeMeter
from lit_posttrain.tracking.probe import AccuracyProbe
from lit_posttrain.tracking.probe_settings import LogSpaced

UIDS = [f"q{i}" for i in range(7)]


def share_right(uids, skill, k=4):
    return sum(threshold(uid, i) < skill for uid in uids for i in range(k)) / (len(uids) * k)


def run(method=None, *, uids=UIDS, logger=None, others=(), settings=None, **trainer):
    probe = AccuracyProbe(**{"data": Questions(uids), **(settings or {})})
    fit(method or ScriptedMethod(), [probe, ComputeMeter(), *others], logger=logger, **trainer)
    return probe


def test_points_are_the_accuracy_at_the_compute_spent():
    logger = MemoryLogger()
    probe = run(logger=logger, settings={"every_n_steps": 3})
    assert [point["step"] for point in probe.points] == [0, 3, 6, 8]
    for point in probe.points:
        step = point["step"]
        assert point["scurve/accuracy"] == pytest.approx(share_right(UIDS, LEARNING * step), abs=1e-12)
        assert point["scurve/flops"] == FLOPS_OF_A_STEP * step  # the probes' own FLOPs are not on the axis
        assert point["scurve/tokens_trained"] == 2 * step
        assert point["scurve/tokens_generated"] == 0
    assert (probe.points[0]["scurve/device_seconds"], probe.points[0]["scurve/accuracy"]) == (0.0, 0.0)
    assert probe.points[0]["scurve/entropy_nats"] == pytest.approx(0.5, abs=1e-12)


def test_each_point_is_one_call_with_known_names_and_a_file_of_counts():
    logger = MemoryLogger()
    probe = run(logger=logger, settings={"every_n_steps": 4, "pass_at": (2,), "majority_at": (3,)})
    calls = [(step, metrics) for step, metrics in logger.calls if "scurve/accuracy" in metrics]
    assert [step for step, _ in calls] == [0, 4, 8]
    for (_, metrics), point in zip(calls, probe.points, strict=True):
        assert {"scurve/flops", "scurve/pass_at_2", "scurve/majority_at_3_standard_error"} <= metrics.keys()
        assert all(is_known(name) and math.isfinite(value) for name, value in metrics.items())
        assert metrics == {name: value for name, value in point.items() if name != "step"}
    counts = json.loads(logger.texts["scurve/counts_step_000004.json"])
    assert counts["problems"]["uid"] == UIDS
    assert counts["problems"]["correct"] == [sum(threshold(u, i) < 0.5 for i in range(4)) for u in UIDS]
    assert counts["samples_per_problem"] == 4
    assert logger.parameters["probe"]["prompt_set"] == counts["prompt_set"]
    assert logger.parameters["probe"]["sampling"]["max_new_tokens"] == 1


def test_training_is_not_touched():
    method, plain = ScriptedMethod(), ScriptedMethod()
    torch.manual_seed(3)
    run(method, settings={"every_n_steps": 1, "samples_per_problem": 2})
    state = torch.get_rng_state()
    torch.manual_seed(3)
    fit(plain, [ComputeMeter()])
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(method.policy.skill, plain.policy.skill)
    assert not any(method.engine.modes)  # always in eval mode and without gradients
    assert method.policy.dropout.training
    assert not method.policy.frozen.training


def test_answers_to_all_problems_are_drawn_in_batches_up_to_the_limit():
    method = ScriptedMethod(batches=1)
    source = Questions(UIDS)
    probe = run(method, settings={"data": source, "problems": 5, "batch_problems": 2, "sampling": Sampling()})
    assert method.engine.calls == [2, 2, 1] * 2
    assert probe.points[0]["scurve/problems"] == 5
    assert source.seen_text == "the text"


def test_ungraded_samples_are_counted_and_left_out():
    probe = run(uids=[*UIDS, "broken"], settings={"every_n_steps": 4})
    assert probe.points[1]["scurve/accuracy"] == pytest.approx(share_right(UIDS, 0.5), abs=1e-12)
    assert probe.points[1]["scurve/ungraded_count"] == 4
    assert probe.points[1]["scurve/problems"] == 7


def test_log_spaced_points_grow_by_the_factor():
    probe = run(ScriptedMethod(batches=20), settings={"log_spaced": LogSpaced(factor=2.0)})
    assert [point["step"] for point in probe.points] == [0, 1, 2, 4, 8, 16, 20]
    later = run(ScriptedMethod(batches=20), settings={"log_spaced": LogSpaced(2.0, "tokens", first_step=3)})
    assert [point["step"] for point in later.points] == [0, 3, 6, 12, 20]


def test_stops_once_good_enough_and_counts_optimiser_steps():
    probe = run(ScriptedMethod(batches=40, accumulate=5), settings={"every_n_steps": 2, "stop_at": 0.3})
    assert share_right(UIDS, 2 * LEARNING) < 0.3 <= share_right(UIDS, 4 * LEARNING)
    assert [point["step"] for point in probe.points] == [0, 2, 4]


def test_listeners_hear_of_each_point_and_metrics_are_there_for_other_callbacks():
    heard = []

    class Listener(Callback):
        def on_probe(self, trainer, pl_module, point, answers):
            heard.append((point["step"], len(answers), len(answers[0])))
            assert float(trainer.callback_metrics["scurve/accuracy"]) == pytest.approx(
                point["scurve/accuracy"]
            )

    run(others=[Listener()], settings={"every_n_steps": 4})
    assert heard == [(0, 7, 4), (4, 7, 4), (8, 7, 4)]


def test_a_resumed_run_goes_on_with_the_curve(tmp_path):
    whole = run(ScriptedMethod(batches=8), settings={"every_n_steps": 2})
    half = tmp_path / "half.ckpt"
    run(ScriptedMethod(batches=8), settings={"every_n_steps": 2}, others=[SaveAt(5, half)])
    resumed = run(ScriptedMethod(batches=8), settings={"every_n_steps": 2}, ckpt_path=half)
    assert [point["step"] for point in resumed.points] == [0, 2, 4, 6, 8]
    timeless = [{k: v for k, v in p.items() if "device" not in k} for p in resumed.points]
    assert timeless == [{k: v for k, v in p.items() if "device" not in k} for p in whole.points]
    seconds = [point["scurve/device_seconds"] for point in resumed.points]
    assert seconds == sorted(seconds)


def test_a_curve_is_of_one_exam(tmp_path):
    half = tmp_path / "half.ckpt"
    run(others=[SaveAt(3, half)])
    with pytest.raises(InputError, match="prompts changed since the checkpoint"):
        run(uids=UIDS[:5], ckpt_path=half)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples_per_problem": 1}, "samples_per_problem is 1; set it to 2 or more"),
        ({"every_n_steps": 0}, "every_n_steps is 0"),
        ({"every_n_steps": 5, "log_spaced": LogSpaced()}, "choose one spacing"),
        ({"pass_at": (8,)}, "k = 8 from 4 samples"),
    ],
)
def test_settings_that_give_no_curve_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        AccuracyProbe(**settings)


def test_what_is_missing_is_said_before_training():
    method = ScriptedMethod()
    with pytest.raises(InputError, match="split 'validation' of Questions has no problems"):
        run(method, uids=[])
    with pytest.raises(InputError, match="stands 2 times"):
        run(method, uids=["a", "b", "a"])
    with pytest.raises(InputError, match="needs a ComputeMeter"):
        fit(method, [AccuracyProbe(data=Questions(UIDS))])
    with pytest.raises(InputError, match="no held-out prompts"):
        run(method, settings={"data": None})
    with pytest.raises(InputError, match="could be told right or wrong"):
        run(method, uids=["broken"])
    method.grader = None
    with pytest.raises(InputError, match="given no grader"):
        run(method)
    assert method.trained == []


@pytest.mark.slow
def test_two_ranks_share_the_problems_and_add_up_their_books():
    script = Path(__file__).with_name("two_ranks.py")
    run_it = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300, check=True)
    found = json.loads(next(line for line in run_it.stdout.splitlines() if line.startswith("{")))
    alone = run(settings={"every_n_steps": 4})
    for point, expected in zip(found["points"], alone.points, strict=True):
        for name, value in expected.items():
            if name.startswith("scurve/tokens") or name.endswith("flops"):
                assert point[name] == 2 * value, name  # both ranks train on every batch here
            elif "device" not in name:
                assert point[name] == pytest.approx(value, abs=1e-12), name
    assert found["counts"]["uid"] == UIDS
    assert found["calls"][:2] == [2, 2]  # four problems of seven; the other rank has three
    assert found["figures"]["compute/total_flops"] == 2 * 8 * FLOPS_OF_A_STEP
    assert found["state"]["ledger"]["update"]["flops"] == 2 * 8 * FLOPS_OF_A_STEP
    assert found["figures"]["time/device_seconds"] > found["figures"]["time/wall_seconds"] * 0.5
