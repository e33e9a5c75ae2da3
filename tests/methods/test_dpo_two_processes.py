"""DPO on two processes does what it does on one: losses, references, rounds; replicated and sharded."""

import os
import socket
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from fakes import difference

from lit_posttrain.checkpoints.io import FolderIO

sys.path.insert(0, str(Path(__file__).parent))
from dpo_ranks import RUNS, STRATEGIES, fit

HERE = Path(__file__).parent

TOLERANCE = {"reset": 2e-4, "average": 1e-5}
"""That of AdamW is larger; the others learn by plain SGD."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The results of two processes."""
    place = tmp_path_factory.mktemp("dpo_ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(HERE / "dpo_ranks.py"), str(place), str(rank), port],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        told = [process.communicate(timeout=900)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(told)
    return place


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_learn_and_report_what_one_does(folder, name, tmp_path):
    alone = fit(name, tmp_path)
    for strategy, rank in product(STRATEGIES, (0, 1)):
        together = torch.load(folder / f"{strategy}-{name}-{rank}.pt")
        assert difference(alone, together) < TOLERANCE.get(name, 1e-5), (strategy, rank)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_go_on_with_a_reference_that_had_moved(folder, strategy, tmp_path):
    """And one goes on where two stopped."""
    alone = fit("reset", tmp_path)
    for rank in (0, 1):
        again = torch.load(folder / f"on-{strategy}-reset-{rank}.pt")
        assert difference(torch.load(folder / f"{strategy}-reset-{rank}.pt"), again) == 0
    one = fit("reset", tmp_path, go_on=folder / f"{strategy}-reset.ckpt", plugins=[FolderIO()])
    assert difference(alone, one) < TOLERANCE["reset"]
