"""Networks divided over processes: two processes at once for what needs them, one process for the rest."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fakes import tiny
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from lit_posttrain.errors import InputError
from lit_posttrain.ledger import Ledger, Phase
from lit_posttrain.networks import LoraSettings, build, token_logprobs
from lit_posttrain.networks.blueprint import Filling, describe, skeleton
from lit_posttrain.networks.flops import FlopCounts, Work
from lit_posttrain.networks.masks import left_padded_mask
from lit_posttrain.networks.sharding import Sharding, build_sharded, decoder_layers, gradient_norm
from lit_posttrain.networks.tensor_parallel import plan, refuse_adapters

HERE = Path(__file__).parent
SCRIPT = HERE / "sharding_process.py"
CHECKS = re.findall(r"@check\ndef (\w+)", SCRIPT.read_text())
LORA = LoraSettings(rank=2)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What two processes found: for each, the traceback of every check by its name, empty where it passed."""
    folder = tmp_path_factory.mktemp("processes")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    files = [folder / f"rank-{rank}.json" for rank in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), str(folder / "meeting"), str(file)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, file in enumerate(files)
    ]
    try:
        told = [process.communicate(timeout=900)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(told)
    return [json.loads(file.read_text()) for file in files]


@pytest.mark.parametrize("check", CHECKS)
def test_in_two_processes(outcomes, check):
    for rank, outcome in enumerate(outcomes):
        assert outcome[check] == "", f"process {rank}"


@pytest.fixture(scope="module")
def mesh():
    """This process alone."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
    distributed.destroy_process_group()


def step(network, batch, optimizer=torch.optim.SGD):
    """One update; the log-probs before it."""
    logprobs = token_logprobs(network, batch)
    (logprobs * torch.linspace(-1, 1, logprobs.numel()).view_as(logprobs)).sum().backward()
    one = optimizer(network.trainable_parameters(), lr=0.1)
    one.step()
    one.zero_grad()
    return logprobs.detach()


def decode(network):
    """Logits after left-padded prompts and one more token."""
    padding, cache = torch.tensor([0, 2]), network.new_cache(6)
    with network.decoding():
        for width in (4, 1):
            ids = torch.arange(2 * width).view(2, width)
            mask = left_padded_mask(padding, length=cache.length + width, queries=width)
            logits = network.decode(ids, torch.zeros_like(ids), mask, cache)
    return logits


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_gathered_in_bfloat16(mesh, rows, attention):
    settings = tiny(attention=attention, shape={"vocab_size": 61})
    network = build_sharded(settings, mesh, Sharding(gather_dtype="bfloat16"))
    whole, low = build(settings), build(tiny(attention=attention, dtype="bfloat16", shape={"vocab_size": 61}))
    assert (network.dtype, network.compute_dtype) == (torch.float32, torch.bfloat16)
    packed = rows([[6, 5], [9]], extra=2)
    assert torch.equal(decode(network), decode(low))
    assert torch.equal(step(network, packed), token_logprobs(low, packed).detach())
    step(whole, packed)
    for own, theirs in zip(network.parameters(), whole.parameters(), strict=True):
        assert own.dtype == torch.float32
        assert isinstance(own, DTensor)
        assert (own.full_tensor() - theirs).abs().max() < 0.05 * theirs.abs().max()


def test_shares_in_the_memory_of_the_host(mesh, rows):
    settings = tiny(shape={"vocab_size": 61}, gradient_checkpointing=True)
    network, whole = build_sharded(settings, mesh, Sharding(cpu_offload=True)), build(settings)
    batch = rows([[6, 5], [9]])
    for _ in range(2):
        assert torch.equal(step(network, batch), step(whole, batch))
    assert torch.equal(decode(network), decode(whole))
    assert all(parameter.device.type == "cpu" for parameter in network.parameters())


@pytest.mark.parametrize(
    ("kind", "lora", "checkpointing"),
    [("llama", None, True), ("qwen2", None, False), ("gpt2", LORA, False), ("gemma2", LORA, True)],
)
def test_rates_are_found_without_numbers(make, kind, lora, checkpointing):
    network = make(kind, lora=lora, gradient_checkpointing=checkpointing)
    complete = FlopCounts.found_on(skeleton(describe(network), network.settings))
    assert complete.rates == FlopCounts.found_on(network).rates
    assert network.training
    for training in (True, False):
        network.train(training)
        network.flops = FlopCounts()
        ledger = Ledger()
        with ledger.phase(Phase.UPDATE):
            for backward in (True, False):
                work = Work(7, 3, 49, 28)
                network.flops.book(network, work, ledger, backward=backward)
        assert network.flops.rates.items() <= complete.rates.items()


@pytest.mark.parametrize("keep", [False, True])
def test_layers_are_kept_for_the_backward_as_set(mesh, rows, keep):
    network = build_sharded(tiny(shape={"vocab_size": 61}), mesh, Sharding(reshard_after_forward=not keep))
    for _ in range(2):
        logprobs = token_logprobs(network, rows([[4]]))
        layer, head = network.causal.base_model.layers[0], network.causal.lm_head
        assert isinstance(layer.mlp.up_proj.weight, DTensor) != keep
        assert not isinstance(head.weight, DTensor)
        logprobs.sum().backward()
        assert all(isinstance(parameter, DTensor) for parameter in network.parameters())
        decode(network)


def test_what_is_trained_must_stay_after_dividing(mesh, rows):
    network, ledger = build_sharded(tiny(shape={"vocab_size": 61}), mesh, Sharding()), Ledger()
    next(network.parameters()).requires_grad_(False)
    with ledger.phase(Phase.UPDATE), pytest.raises(RuntimeError, match="after the network was divided"):
        token_logprobs(network, rows([[4]]), ledger=ledger)


def test_flags_come_along(mesh):
    network, whole = (
        build_sharded(tiny(lora=LORA, gradient_checkpointing=True), mesh, Sharding()),
        build(tiny(lora=LORA, gradient_checkpointing=True)),
    )
    assert network.training
    assert network.base_digest == whole.base_digest
    assert network.original == whole.original
    assert network.causal.is_gradient_checkpointing
    assert network.causal.generation_config.to_dict() == whole.causal.generation_config.to_dict()
    assert network.state_dict().keys() == whole.state_dict().keys()


def test_a_copy_that_is_wrong_is_noticed(mesh, monkeypatch):
    def zeros(self):
        for buffer in self.empty.named_buffers():
            self.buffers[buffer[0]].zero_()
        fill(self)

    fill = Filling.all_buffers
    monkeypatch.setattr(Filling, "all_buffers", zeros)
    with pytest.raises(InputError, match="other log-probs"):
        build_sharded(tiny(), mesh, Sharding())


def test_numbers_that_nobody_would_send_are_refused(make):
    network = make()
    blueprint = describe(network)
    parameters = dict(blueprint.parameters)
    parameters["x"] = parameters.pop("model.model.norm.weight")
    with pytest.raises(InputError, match=r"other parameters .* 2 differ"):
        skeleton(replace(blueprint, parameters=parameters), network.settings)


def test_layers_must_be_in_one_list(make):
    network = make()
    assert decoder_layers(network) == list(network.model.model.layers)
    network.hf_config.num_hidden_layers = 3
    with pytest.raises(InputError, match="no list of 3 layers"):
        decoder_layers(network)


def test_what_processes_cannot_share(make):
    def share(kind="llama", size=2, **shape):
        return plan(make(kind, shape=shape), size)

    assert len(share()) == 14
    with pytest.raises(InputError, match="4 query heads and 2 key heads, which 4 processes"):
        share(size=4)
    with pytest.raises(InputError, match=r"layers\.0\.mlp\.gate_proj has 49 outputs"):
        share(intermediate_size=49)
    with pytest.raises(InputError, match="no tensor-parallel plan for GPT2"):
        share("gpt2")
    with pytest.raises(InputError, match="layers of LoRA"):
        refuse_adapters(tiny(lora=LORA))
    network = make()
    network.hf_config.base_model_tp_plan = {"layers.*.mlp": "sideways"}
    with pytest.raises(InputError, match=r"asks for \{'layers\.\*\.mlp': 'sideways'\}"):
        plan(network, 2)
    network.hf_config.base_model_tp_plan = {"layers.*.mlp": "colwise"}
    with pytest.raises(InputError, match=r"layers\.0\.mlp is a LlamaMLP"):
        plan(network, 2)


def test_dtypes_that_are_none():
    with pytest.raises(InputError, match="'int8'"):
        Sharding(gather_dtype="int8")  # type: ignore[arg-type]


def test_norm_of_plain_gradients():
    """3-4-12-13: sqrt(9 + 16 + 144) = 13; a parameter without a gradient counts nothing."""
    parameters = [
        torch.nn.Parameter(torch.zeros(2)),
        torch.nn.Parameter(torch.zeros(())),
        torch.nn.Parameter(torch.ones(3)),
    ]
    assert gradient_norm(parameters) == 0
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, -4.0]), torch.tensor(12.0)
    assert gradient_norm(parameters) == 13
    assert gradient_norm(iter(parameters)).shape == ()
