"""Several processes answer what one answers: the same results, and every problem once in the file, in order."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KINDS = ("ddp", "fsdp")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("answers")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    subprocess.run(
        [sys.executable, str(HERE / "rank_answers.py"), str(place)], env=environment, check=True, timeout=600
    )
    return place


def ended(folder, case):
    return json.loads((folder / f"{case}-ended.json").read_text())


def told(folder, kind, number=0):
    assert [one["code"] for one in ended(folder, kind)] in ([0], [0, 0]), ended(folder, kind)[0]["err"]
    return json.loads((folder / f"{kind}-{number}.json").read_text())


def texts(those):
    return [(row["candidate"], row["completion"]) for row in those]


def rows(folder, case):
    return [json.loads(line) for line in (folder / f"{case}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_those_of_one_process(folder, kind):
    alone, first, second = (
        told(folder, "one"),
        told(folder, kind, 0),
        told(folder, kind, 1),
    )
    assert first == second
    assert first["rows"] == alone["rows"] == [16, 12, 4]
    for have, want in zip(first["told"], alone["told"], strict=True):
        flops = have.pop("test_time/flops"), want.pop("test_time/flops")
        assert 0.5 < flops[0] / flops[1] < 2  # padding depends on who is in a batch, which is counted
        assert have == want
        assert 0 < want["test_time/accuracy"] < 1
    assert alone["told"][0] != alone["told"][1]


@pytest.mark.parametrize("kind", KINDS)
def test_every_problem_is_in_the_file_once_and_in_order(folder, kind):
    alone, together = rows(folder, "one"), rows(folder, kind)
    assert len(alone) == 8 * 4
    for have, want in zip(together, alone, strict=True):
        for name in ("mean_logprob_nats", "logprobs"):
            assert have.pop(name) == pytest.approx(want.pop(name), abs=1e-5)
        flops = have.pop("flops"), want.pop("flops")
        assert 0.3 < flops[0] / flops[1] < 3  # a share of the process's own batch
        assert have.pop("seconds") > 0 < want.pop("seconds")
        assert have == want
    assert [path.name for path in folder.glob(f"{kind}*.jsonl")] == [f"{kind}.jsonl"]


def test_what_was_written_outlives_a_process_that_dies(folder):
    """The second process dies in the second batch; the first one ends as well, and keeps the first batch."""
    first, second = ended(folder, "dies")
    assert second["code"] == 9
    assert first["code"] not in (0, 9)
    assert first["seconds"] - second["seconds"] < 20
    assert texts(rows(folder, "dies")) == texts(rows(folder, "ddp")[:16])


def test_a_file_that_is_there_is_refused_by_all(folder):
    for one in ended(folder, "taken"):
        assert one["code"] == 1
        assert "is there already; choose another output" in one["err"]
    assert (folder / "taken.jsonl").read_text() == "kept"
