"""One of two processes that share networks: `python sharding_process.py RANK RENDEZVOUS_FILE RESULT_FILE`.

Every check runs in both processes; what fails is written, by the name of the check, as JSON.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from fakes import SHAPE, TEXT, prompts, tiny
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from lit_posttrain.batches import Request, SampleKey, Sampling, TokenBatch
from lit_posttrain.errors import InputError
from lit_posttrain.ledger import Ledger, Phase
from lit_posttrain.networks import LoraSettings, NetworkConfig, build, disable_dropout
from lit_posttrain.networks.cache import KeyValueCache
from lit_posttrain.networks.gradient_parts import by_part
from lit_posttrain.networks.sharding import Sharding, build_sharded, gradient_norm, gradient_norms
from lit_posttrain.rollouts import TorchEngine
from lit_posttrain.text import load_text

torch.set_num_threads(1)
RANK = int(sys.argv[1])
LORA = LoraSettings(rank=2)
TIED = {"tie_word_embeddings": True}
ATTENTION = {"attention_bias": True, "mlp_bias": True}
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 0}
GEMMA = {"model_type": "gemma2", "head_dim": 16, "sliding_window": 4, "pad_token_id": 0, "eos_token_id": 1}
DIVIDED = {
    "full": tiny(chunk_tokens=0),
    "tied, chunks of the head": tiny(chunk_tokens=3, shape=TIED),
    "lora, checkpointing": tiny(lora=LORA, gradient_checkpointing=True),
    "tied lora, head in float32": tiny(lora=LORA, fp32_head=True, chunk_tokens=3, shape=TIED),
    "checkpointing, eager": tiny(gradient_checkpointing=True, attention="eager", chunk_tokens=3),
    "gpt2": tiny(shape={**GPT2, "eos_token_id": 0}),
    "windows": tiny(attention="eager", shape=GEMMA),
}
SHARED_LAYERS = {
    "full": tiny(chunk_tokens=0),
    "biases, checkpointing": tiny(shape=ATTENTION, gradient_checkpointing=True, chunk_tokens=3),
    "tied, head in float32": tiny(shape=TIED, fp32_head=True, chunk_tokens=3),
    "norms of heads": tiny(shape={"model_type": "qwen3", "head_dim": 8}),
    "whole columns": tiny(
        shape={"model_type": "phi3", "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    ),
}
CHECKS: dict[str, Callable[[], None]] = {}


def check(function: Callable[[], None]) -> Callable[[], None]:
    """Notes a check under the name of its function."""
    CHECKS[function.__name__] = function
    return function


def mesh(data: int, layers: int) -> Any:
    return init_device_mesh("cpu", (data, layers), mesh_dim_names=("data_parallel", "tensor_parallel"))


def divided(settings: NetworkConfig, *, layers: int = 1, **sharding: Any) -> Any:
    return build_sharded(settings, mesh(2 // layers, layers), Sharding(**sharding))


def batch(seed: int) -> TokenBatch:
    """Two packed sequences and one alone, padded; random tokens."""
    segments = torch.tensor([[1] * 5 + [2] * 4 + [0] * 2, [3] * 8 + [0] * 3])
    positions = torch.tensor([[*range(5), *range(4), 0, 0], [*range(8), 0, 0, 0]])
    ids = torch.randint(16, segments.shape, generator=torch.Generator().manual_seed(seed))
    mask = segments > 0
    return TokenBatch(ids, segments, positions, mask, mask.float())


def spent(network: Any, rank: int, *, backward: bool = True) -> tuple[torch.Tensor, Any]:
    """Log-probs of a rank's batch, after a backward of their weighted sum, and what was booked for them."""
    ledger, given = Ledger(), batch(rank)
    with ledger.phase(Phase.UPDATE), nullcontext() if backward else torch.no_grad():
        logprobs = network(given, ledger=ledger)
        if backward:
            (logprobs * torch.linspace(-1, 1, logprobs.numel()).view_as(logprobs)).sum().backward()
    return logprobs.detach(), vars(ledger.spent[Phase.UPDATE]) | {"seconds": 0}


def full(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def near(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    difference = float((found - expected).abs().max() / expected.abs().max().clamp_min(1))
    assert difference <= tolerance, difference


def compare(network: Any, whole: Any, *, data: int, tolerance: float) -> None:
    """Log-probs, books, gradients and their norm against the whole network on all the data."""
    mine = RANK if data > 1 else 0
    assert disable_dropout(network) == disable_dropout(whole)
    found, booked = spent(network, mine)
    expected = [spent(whole, rank) for rank in range(data)]
    near(found, expected[mine][0], tolerance)
    assert booked == expected[mine][1], (booked, expected[mine][1])
    assert spent(network, mine, backward=False)[1] == spent(whole, mine, backward=False)[1]
    own, theirs = dict(network.named_parameters()), dict(whole.named_parameters())
    assert list(own) == list(theirs)
    for name, parameter in theirs.items():
        assert isinstance(own[name], DTensor), name
        assert own[name].requires_grad == parameter.requires_grad, name
        assert (own[name].grad is None) == (parameter.grad is None), name
        assert torch.equal(full(own[name].detach()), parameter.detach()), name
        if parameter.grad is not None:
            parameter.grad /= data
            near(full(own[name].grad), parameter.grad, tolerance)
    norm = gradient_norm(network.parameters())
    assert norm.shape == ()
    assert not isinstance(norm, DTensor)
    near(norm, gradient_norm(whole.parameters()), tolerance)
    near(
        norm,
        torch.nn.utils.get_total_norm([p.grad for p in theirs.values() if p.grad is not None]),
        tolerance,
    )
    parts, expected_parts = (gradient_norms(by_part(one)) for one in (network, whole))
    assert list(parts) == list(expected_parts)
    for part, of_part in expected_parts.items():
        near(parts[part].float(), of_part.float(), tolerance)
    for name, buffer in whole.named_buffers():
        assert torch.equal(network.get_buffer(name), buffer), name


def shares(network: Any) -> list[torch.Tensor]:
    """This process's share of every parameter."""
    return [parameter.detach().to_local().clone() for parameter in network.parameters()]


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def train(network: Any, steps: int = 2) -> list[torch.Tensor]:
    optimizer = torch.optim.SGD(network.trainable_parameters(), lr=0.1)
    for step in range(steps):
        spent(network, RANK + 2 * step)
        optimizer.step()
        optimizer.zero_grad()
    return shares(network)


def answers(network: Any, numbers: range, *, max_rows: int = 5) -> list[list[int]]:
    """Greedy tokens for some of the problems, of uneven length and number."""
    text, ledger = load_text(TEXT), Ledger()
    known = prompts(text, 8)
    sampling = Sampling(temperature=0.0, max_new_tokens=9)
    asked = [
        Request(known.prompt_ids[i], SampleKey(0, known.problems[i].uid), sampling, 1 + i % 3)
        for i in numbers
    ]
    with ledger.phase(Phase.ROLLOUT):
        results = TorchEngine(network, text, ledger, max_rows=max_rows).generate(asked)
    return [completion.tokens.tolist() for group in results for completion in group]


@check
def divided_networks_compute_the_same() -> None:
    for name, settings in DIVIDED.items():
        try:
            compare(divided(settings), build(settings), data=2, tolerance=1e-6)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


@check
def layers_may_stay_gathered() -> None:
    settings = DIVIDED["lora, checkpointing"]
    compare(divided(settings, reshard_after_forward=False), build(settings), data=2, tolerance=1e-6)


@check
def every_process_holds_its_half() -> None:
    network = divided(tiny(shape=TIED, chunk_tokens=0))
    held = sum(share.numel() for share in shares(network))
    total = sum(parameter.numel() for parameter in build(tiny(shape=TIED)).parameters())
    assert abs(held - total / 2) < 100
    causal = network.causal
    assert causal.get_input_embeddings().weight is causal.get_output_embeddings().weight
    spent(network, 0, backward=False)
    assert sum(share.numel() for share in shares(network)) == held  # nothing stays gathered


@check
def processes_write_different_amounts() -> None:
    for settings in (tiny(attention="eager"), tiny(lora=LORA), tiny(shape=TIED, fp32_head=True)):
        network, whole = divided(settings), build(settings)
        before = shares(network)
        for mine in ((range(7), range(0)), (range(2), range(2, 8)), (range(0), range(0))):
            assert answers(network, mine[RANK]) == answers(whole, mine[RANK])
            assert equal(shares(network), before)


@check
def training_goes_on_as_if_nothing_had_been_written() -> None:
    for settings, keep in ((tiny(), False), (tiny(lora=LORA, gradient_checkpointing=True), True)):
        plain, written = (divided(settings, reshard_after_forward=not keep) for _ in range(2))
        expected, start = train(plain), shares(written)
        answers(written, range(3 * RANK))
        with written.decoding(), written.decoding():  # nested, as the probe does
            spent(written, RANK, backward=False)
        assert written.training
        assert equal(train(written), expected)
        assert not equal(start, expected)


@check
def a_process_may_leave_early_or_fail() -> None:
    network, whole, ids = divided(tiny()), build(tiny()), torch.ones(1, 1, dtype=torch.int64)
    expected = pytest.raises(ValueError, match="room for 3") if RANK == 1 else nullcontext()
    with expected, network.decoding():
        if RANK == 1:  # fails within a layer
            network.decode(ids.repeat(1, 4), torch.arange(4)[None], None, KeyValueCache(2, 3))
        for _ in range(3):
            network.decode(ids, torch.zeros_like(ids), None, network.new_cache(4))
    with pytest.raises(InputError, match="temperature"):
        network(batch(0), temperature=0.0)
    compare(network, whole, data=2, tolerance=1e-6)


@check
def the_base_is_the_reference() -> None:
    for keep in (True, False):
        network, base = divided(tiny(lora=LORA), reshard_after_forward=keep), build(tiny())
        train(network)
        logprobs = network(batch(RANK))
        with network.adapter_off(), torch.no_grad():
            reference = network(batch(RANK))
            with network.decoding():
                assert torch.equal(network(batch(RANK)), reference)
        with network.decoding(), network.adapter_off():
            assert torch.equal(network(batch(RANK)), reference)
        near(reference, base(batch(RANK)).detach(), 1e-6)
        assert not torch.equal(logprobs.detach(), reference)
        with network.adapter_off():  # leaves layers gathered where they are kept so
            assert not network(batch(RANK)).requires_grad
        logprobs.sum().backward()
        assert all(full(p.grad).abs().sum() > 0 for p in network.trainable_parameters())
        assert not equal(shares(network), train(network))


@check
def all_processes_learn_that_there_is_no_network() -> None:
    with pytest.raises(InputError, match="no/such/folder"):
        divided(NetworkConfig(path="./no/such/folder"))
    with pytest.raises(InputError, match="'lama'"):
        divided(tiny(shape={"model_type": "lama"}))
    with pytest.raises(RuntimeError, match="dimension" if RANK == 0 else "process 0 could not build"):
        divided(tiny(shape={"hidden_size": -4}))


@check
def shared_layers_compute_the_same() -> None:
    for name, settings in SHARED_LAYERS.items():
        try:
            compare(divided(settings, layers=2), build(settings), data=1, tolerance=1e-5)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


@check
def shared_layers_write_the_same() -> None:
    network, whole = divided(tiny(), layers=2), build(tiny())
    assert network.collective_decoding
    assert not divided(tiny()).collective_decoding
    before = shares(network)
    assert answers(network, range(7)) == answers(whole, range(7))
    assert equal(shares(network), before)
    assert network.new_cache(4).parts[0].keys is None
    with network.decoding():
        cache = network.new_cache(4)
        logits = network.decode(torch.ones(2, 4, dtype=torch.int64), torch.arange(4)[None], None, cache)
    keys = cache.parts[0].keys
    assert keys is not None
    assert keys.shape[1] == SHAPE["num_key_value_heads"] / 2
    both = [torch.empty_like(logits) for _ in range(2)]
    distributed.all_gather(both, logits)
    assert torch.equal(*both)  # else the processes would draw different tokens, and wait for ever


@check
def shared_layers_learn_the_same() -> None:
    settings = tiny(shape={**TIED, "model_type": "qwen3", "head_dim": 8})
    network, whole = divided(settings, layers=2), build(settings)
    for one in (network, whole):
        optimizer = torch.optim.AdamW(one.trainable_parameters(), lr=0.01, foreach=True)
        for step in range(3):
            spent(one, step)
            torch.nn.utils.clip_grad_norm_(one.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
    for (name, own), theirs in zip(network.named_parameters(), whole.parameters(), strict=True):
        near(full(own.detach()), theirs.detach(), 1e-4)
        if "norm" in name or "embed" in name:
            both = [torch.empty_like(own.to_local()) for _ in range(2)]
            distributed.all_gather(both, own.detach().to_local())
            assert torch.equal(*both), name


def main() -> None:
    rank, rendezvous, result = sys.argv[1:]
    store = distributed.FileStore(rendezvous, 2)
    distributed.init_process_group("gloo", store=store, rank=int(rank), world_size=2)
    outcome = {}
    for name, function in CHECKS.items():
        try:
            function()
            outcome[name] = ""
        except Exception:
            outcome[name] = traceback.format_exc()
            break  # the processes may no longer be in step
    Path(result).write_text(json.dumps(outcome))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
