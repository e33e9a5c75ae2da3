"""One process and two do the same: data, weights, clipping, accumulation, generation; sharded and replicated."""

import os
import socket
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from fakes import difference

from lit_posttrain.batches import Experience
from lit_posttrain.checkpoints.folder import verify
from lit_posttrain.checkpoints.io import FolderIO

sys.path.insert(0, str(Path(__file__).parent))
from rank_runs import ELASTIC, RUNS, STRATEGIES, fit, parts, record

TOLERANCE = {"sgd": 1e-6, "adamw": 1e-4}
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The results of two processes; `rollouts.pt` is what both and the single one learn from."""
    place = tmp_path_factory.mktemp("ranks")
    torch.save([experience.to_state() for experience in record()], place / "rollouts.pt")
    for run in ELASTIC:
        fit(run, given(place), save=place / f"one-{run.name}.ckpt", plugins=[FolderIO()])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(HERE / "rank_runs.py"), str(place), str(rank), port],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        told = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(told)
    return place


@pytest.fixture(scope="module")
def rollouts(folder):
    return given(folder)


def given(folder):
    return [Experience.from_state(state) for state in torch.load(folder / "rollouts.pt")]


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_two_processes_learn_what_one_learns(folder, rollouts, run):
    alone = fit(run, rollouts)
    start = fit_nothing(run, rollouts)
    moved = difference({k: v for k, v in alone.items() if k in start}, start)
    assert moved > 100 * TOLERANCE[run.optimizer]
    for strategy, rank in product(("ddp", "fsdp"), (0, 1)):
        together = torch.load(folder / f"{strategy}-{run.name}-{rank}.pt")
        assert difference(alone, together) < TOLERANCE[run.optimizer], (strategy, rank)


def fit_nothing(run, rollouts):
    module, _ = parts(run, rollouts)
    module.configure_model()
    return {name: p.detach().clone() for name, p in module.policy.named_parameters()}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("run", ELASTIC, ids=lambda run: run.name)
def test_one_goes_on_where_two_stopped_and_two_where_one_did(folder, rollouts, run, strategy):
    """With another number of micro-batches, in mid-epoch and within the steps of a rollout."""
    alone = fit(run, rollouts)
    stopped_by_two = folder / f"{strategy}-{run.name}.ckpt"
    assert verify(stopped_by_two).kind == ("sharded" if strategy == "fsdp" else "single")
    one = fit(run, rollouts, go_on=stopped_by_two, micro_batches=3, plugins=[FolderIO()])
    assert difference(alone, one) < TOLERANCE[run.optimizer]
    for rank in (0, 1):
        two = torch.load(folder / f"on-{strategy}-{run.name}-{rank}.pt")
        assert difference(alone, two) < TOLERANCE[run.optimizer]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_live_rollouts_of_uneven_lengths(folder, strategy):
    """Both ranks see all answers to all problems, take the same steps and hold the same weights."""
    first, second = (torch.load(folder / f"live-{strategy}-{rank}.pt") for rank in (0, 1))
    assert first["steps"] == second["steps"] == 4
    assert first["lengths"] == second["lengths"]
    assert all(len(lengths) == 5 * 4 for lengths in first["lengths"])
    assert len({length for lengths in first["lengths"] for length in lengths}) > 3
    assert difference(first["weights"], second["weights"]) == 0


def test_replicated_and_sharded_networks_draw_the_same(folder):
    ddp, fsdp = (torch.load(folder / f"live-{strategy}-0.pt") for strategy in ("ddp", "fsdp"))
    assert ddp["lengths"][0] == fsdp["lengths"][0]
    assert difference(ddp["weights"], fsdp["weights"]) < 1e-5
