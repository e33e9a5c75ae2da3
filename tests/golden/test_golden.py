"""Losses of 20 steps equal the recorded ones; re-record only with a reason: `python tools/record_golden.py`."""

import json
from pathlib import Path

import pytest
from runs import RUNS, STEPS, losses

RECORDED = json.loads(Path(__file__).with_name("losses.json").read_text())


@pytest.mark.parametrize("name", RUNS)
def test_losses_are_those_recorded(name):
    values = losses(name)
    assert len(values) == STEPS
    assert values == pytest.approx(RECORDED[name], rel=1e-3, abs=1e-4)


def test_supervised_losses_fall():
    assert RECORDED["sft"][-1] < RECORDED["sft"][0]
