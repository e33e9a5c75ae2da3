"""The benchmark on the real files: splits, a baseline and, with --run-slow, what is promised of the trainings."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"

pytestmark = pytest.mark.realdata


def test_splits_and_the_longer_reply(realdata, tmp_path, monkeypatch):
    """Counted apart: of 5,899 rows 33 have equal sides, in 19 a speaker goes on, in 7 a message is empty."""
    monkeypatch.syspath_prepend(str(TOOLS))
    from preferences.baselines import longer_reply
    from preferences.figures import hits
    from preferences.real_data import first_question, helpful, pairs

    table = helpful(realdata, tmp_path / "helpful")
    splits = {name: pairs(table, name) for name in ("train", "validation", "test")}
    assert {name: len(rows) for name, rows in splits.items()} == {
        "train": 4375,
        "validation": 285,
        "test": 1180,
    }
    begun = [{first_question(row) for row in rows} for rows in splits.values()]
    assert len(begun[0] | begun[1] | begun[2]) == sum(map(len, begun))
    assert hits(longer_reply(splits["test"])).mean() == pytest.approx(0.564, abs=0.001)


@pytest.mark.slow
def test_reward_model_and_polite_answers(realdata, tmp_path):
    """Minutes: above a half by four standard errors, and at least 0.75."""
    quiet = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    short = ["--max-tokens", "160", "--steps", "90", "--polite-steps", "33"]
    command = [sys.executable, str(TOOLS / "bench_preferences.py"), str(realdata), "--output", str(tmp_path)]
    done = subprocess.run(
        [*command, *short, "--models", "reward", "polite"],
        env=os.environ | quiet,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    value, error = figure("reward model, pretrained", done.stdout)
    assert value - 4 * error > 0.5
    assert figure("polite DPO", done.stdout)[0] >= 0.75


def figure(name, text):
    found = re.search(rf"\| {name} \| (\S+) ± (\S+) \|", text)
    assert found is not None, text[-3000:]
    return float(found[1]), float(found[2])
