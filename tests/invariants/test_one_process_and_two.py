"""One process and two do the same: data, weights, clipping, accumulation, generation; sharded and replicated."""

import os
import socket
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from fakes import Numbers, difference, trainer
from transformers import AutoModelForCausalLM

from lit_posttrain.batches import Experience
from lit_posttrain.checkpoints.export import export
from lit_posttrain.checkpoints.folder import verify
from lit_posttrain.checkpoints.io import FolderIO
from lit_posttrain.data import ChatData
from lit_posttrain.methods import SFTModule
from lit_posttrain.networks import NetworkConfig

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
        told = [process.communicate(timeout=900)[0] for process in processes]
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


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("run", ELASTIC, ids=lambda run: run.name)
def test_what_two_processes_saved_is_exported(folder, rollouts, run, strategy, tmp_path):
    """Logits and greedy text of the exported folder are those of the network that the processes held."""
    exported = export(folder / f"{strategy}-{run.name}.ckpt", tmp_path / "model")
    theirs = AutoModelForCausalLM.from_pretrained(exported)
    module, _ = parts(run, rollouts)
    module.configure_model()
    held = torch.load(folder / f"at-{strategy}-{run.name}-0.pt")
    module.policy.load_state_dict({k: v for k, v in held.items() if k != "val/loss"}, strict=False)
    ids = torch.randint(16, (3, 12), generator=torch.Generator().manual_seed(1))
    ours = module.policy.model.eval()
    with torch.no_grad():
        assert (ours(ids).logits - theirs(ids).logits).abs().max() < (1e-4 if run.trained == "lora" else 1e-5)
        greedy = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": None, "pad_token_id": 0}
        prompt = {"input_ids": ids[:, :4], "attention_mask": torch.ones(3, 4, dtype=torch.int64)}
        assert ours.generate(**prompt, **greedy).equal(theirs.generate(**prompt, **greedy))
    again = SFTModule(NetworkConfig(path=str(exported)))  # a valid start of the next method
    trainer(max_steps=1).fit(again, datamodule=ChatData(Numbers(4), validation_split=None))


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
