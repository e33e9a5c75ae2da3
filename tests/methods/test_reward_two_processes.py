"""A reward model learns and reports on two processes what it does on one; replicated and sharded."""

import os
import socket
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from fakes import difference, tiny
from transformers import AutoModelForSequenceClassification

from lit_posttrain.batches import TokenBatch
from lit_posttrain.checkpoints.export import export
from lit_posttrain.networks import ScoreHead, build, last_tokens

sys.path.insert(0, str(Path(__file__).parent))
from reward_ranks import RUNS, STRATEGIES, fit

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The results of two processes."""
    place = tmp_path_factory.mktemp("reward_ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(HERE / "reward_ranks.py"), str(place), str(rank), port],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        told = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(told)
    return place


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_learn_and_report_what_one_does(folder, name):
    alone = fit(name)
    assert "val/score_spread" in alone
    for strategy, rank in product(STRATEGIES, (0, 1)):
        together = torch.load(folder / f"{strategy}-{name}-{rank}.pt")
        assert difference(alone, together) < 1e-5, (strategy, rank)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["pairs", "steps, lora"])
def test_what_two_processes_saved_is_exported(folder, strategy, name, tmp_path):
    _, adapter, _ = RUNS[name]
    network = build(tiny(head=ScoreHead(2), **adapter)).eval()
    held = torch.load(folder / f"{strategy}-{name}-0.pt")
    network.load_state_dict({key: value for key, value in held.items() if "/" not in key}, strict=False)
    ids, ones = torch.tensor([[3, 4, 5, 6, 1]]), torch.ones(1, 5, dtype=torch.int64)
    given = TokenBatch(ids, ones, torch.arange(5)[None], ones.bool(), ones.float())
    exported = export(folder / f"{strategy}-{name}.ckpt", tmp_path / "out")
    theirs = AutoModelForSequenceClassification.from_pretrained(exported).eval()
    with torch.no_grad():
        assert (network.scores(given, last_tokens(given)) - theirs(ids).logits).abs().max() < 1e-5
