"""Runs that are killed and resumed end as the one that nobody disturbed; the tool that says so sees differences."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

TOOLS = Path(__file__).parents[2] / "tools"
STATE = {
    "state_dict": {"w": torch.tensor([1.0, 2.0])},
    "loops": {"steps": 3, "rate": 0.0},
    "callbacks": {"meter": {"wall_seconds": 1.0, "ledger": [{"flops": 5.0, "seconds": 0.1}]}},
}


@pytest.fixture
def parts(monkeypatch) -> tuple[ModuleType, ModuleType]:
    monkeypatch.syspath_prepend(TOOLS)
    from kill_resume import compare, evidence

    return compare, evidence


def changed(path, value):
    """A copy of the state in which one entry is another."""
    *above, last = path

    def copy(node):
        if isinstance(node, dict):
            return {key: copy(item) for key, item in node.items()}
        return [copy(item) for item in node] if isinstance(node, list) else node

    state = copy(STATE)
    inner = state
    for key in above:
        inner = inner[key]
    inner[last] = value
    return state


def test_two_killed_runs_of_each_method_end_as_if_nothing_had_happened(tmp_path):
    options = ["--trials", "2", "--methods", "sft,grpo", "--no-upload", "--keep", str(tmp_path / "runs")]
    done = subprocess.run(
        [sys.executable, str(TOOLS / "check_kill_resume.py"), *options],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"},
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    for method in ("sft", "grpo"):  # trials, kills that met a living process, equal
        assert re.search(rf"^{method} +all +2 +2 +2 ", done.stdout, re.MULTILINE), told


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("state_dict", "w"), torch.tensor([1.0, 2.0 + 2**-22])),
        (("state_dict", "w"), torch.tensor([1.0, 2.0], dtype=torch.float64)),
        (("state_dict", "v"), torch.zeros(1)),
        (("loops", "steps"), 4),
        (("loops", "steps"), 3.0),
        (("loops", "rate"), -0.0),
        (("callbacks", "meter", "ledger", 0, "flops"), 5.5),
        (("callbacks", "meter", "ledger"), []),
    ],
)
def test_one_bit_of_a_checkpoint_is_seen(parts, path, value):
    compare, _ = parts
    (difference,) = compare.trees(changed(path, value), STATE)
    assert ".".join(map(str, path)) in difference


def test_seconds_and_places_may_differ(parts):
    compare, _ = parts
    assert not list(compare.trees(changed(("callbacks", "meter", "wall_seconds"), 9.0), STATE))
    assert not list(compare.trees(changed(("callbacks", "meter", "ledger", 0, "seconds"), 9.0), STATE))
    assert not list(compare.trees({"run_uid": "a", "dirpath": "x"}, {"run_uid": "b", "dirpath": "y"}))


def test_points_are_there_once_and_with_their_value(parts):
    compare, evidence = parts
    points = {("train/loss", 1): [0.5], ("time/wall_seconds", 1): [3.0]}
    right = evidence.Tracked(["FINISHED"], points, {})

    def against(**other):
        tracked = evidence.Tracked(other.pop("statuses", ["FINISHED"]), points | other.pop("points", {}), {})
        return list(compare.metrics(tracked, right))

    assert not against(points={("time/wall_seconds", 1): [4.0]})
    assert against(points={("train/loss", 1): []}) == ["metric train/loss at step 1: 0 points against 1"]
    assert against(points={("train/loss", 1): [0.5, 0.5]})
    assert against(points={("train/loss", 1): [0.25]})
    assert against(points={("train/loss", 2): [0.5]})
    assert against(statuses=["KILLED"])
    assert against(statuses=["FINISHED", "FINISHED"])


def test_batches_done_again_must_be_the_same(parts):
    compare, evidence = parts
    truth = evidence.Segment(batches={(0, 0): "a", (1, 0): "b", (2, 0): "c"})
    first = evidence.Segment(batches={(0, 0): "a", (1, 0): "b"})

    def after(**second):
        return list(compare.histories([first, evidence.Segment(**second)], truth))

    assert not after(batches={(1, 0): "b", (2, 0): "c"})
    assert after(batches={(1, 0): "x", (2, 0): "c"}) == ["process 1, step 1, micro-batch 0: another batch"]
    assert after(batches={(1, 0): "b"}) == ["step 2, micro-batch 0 was never learned from"]


def test_clocks_add_up(parts):
    compare, evidence = parts
    carried = {"wall_seconds": 10.0, "device_seconds": 6.0}
    batches = {(0, 0): "a"}
    last = evidence.Segment(batches, train_start_s=100.0, train_end_s=105.0, restored=carried)

    def final(wall, device):
        return list(compare.clocks([last], {"wall_seconds": wall, "device_seconds": device}))

    assert not final(15.01, 10.0)
    assert final(5.0, 10.0)  # what was carried is lost
    assert final(15.0, 26.0)
    assert final(15.0, 5.0)


def test_a_process_that_found_all_done_adds_no_seconds(parts):
    compare, evidence = parts
    books = {"wall_seconds": 10.0, "device_seconds": 6.0}
    idle = evidence.Segment(train_start_s=100.0, train_end_s=105.0, restored=books)
    assert not list(compare.clocks([idle], books))
    assert list(compare.clocks([idle], {"wall_seconds": 10.5, "device_seconds": 6.5}))
