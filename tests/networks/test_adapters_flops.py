"""The FLOPs of adapters against torch's own counter."""

from contextlib import contextmanager

import pytest
import torch
from networks.adapter_kinds import FP4, KINDS, NF4, SEQUENCE, WIDE, every_kind, needs_bitsandbytes
from torch.utils.flop_counter import FlopCounterMode

from lit_posttrain.ledger import Ledger, Phase
from lit_posttrain.networks import LoraSettings, disable_dropout, token_logprobs
from lit_posttrain.networks.masks import left_padded_mask


def four_bits(states, weight, shape, *rest, out_shape=None, **named):
    """bitsandbytes' product, which torch does not know: every position times the whole weight."""
    return 2 * shape_size(states[:-1]) * shape[0] * shape[1]


def shape_size(shape):
    return torch.Size(shape).numel()


@contextmanager
def counted(ledger):
    """Torch's counter around a block; the ledger must agree."""
    known = {}
    if hasattr(torch.ops.bitsandbytes, "gemm_4bit"):
        known[torch.ops.bitsandbytes.gemm_4bit] = four_bits
    counter, spent = FlopCounterMode(display=False, custom_mapping=known), ledger.spent[Phase.UPDATE].flops
    with counter, ledger.phase(Phase.UPDATE):
        yield
    assert counter.get_total_flops() > 0
    assert ledger.spent[Phase.UPDATE].flops - spent == pytest.approx(counter.get_total_flops(), rel=1e-3)


def check(network, batch):
    ledger = Ledger()
    with ledger.phase(Phase.SCORING):
        token_logprobs(network, batch, ledger=ledger)
    with counted(ledger):
        result = token_logprobs(network, batch, ledger=ledger)
        if result.requires_grad:
            result.sum().backward()


def with_and_without_checkpointing() -> list:
    """Every kind twice, but prefix tuning, which refuses it."""
    kinds = [(one, again) for again in (False, True) for one in every_kind()]
    return [
        pytest.param(*one.values, again, id=f"{one.id}{'-checkpointing' * again}", marks=one.marks)
        for one, again in kinds
        if not (again and one.values[0] == KINDS["prefix"])
    ]


@pytest.mark.parametrize(("adapter", "quantisation", "checkpointing"), with_and_without_checkpointing())
def test_training_agrees_with_torch(make, rows, adapter, quantisation, checkpointing):
    network = make(
        "llama",
        attention="eager",
        chunk_tokens=5,
        adapter=adapter,
        quantisation=quantisation,
        shape=dict(WIDE if quantisation else {}),
        gradient_checkpointing=checkpointing,
    )
    check(network, rows([[13], [9]], extra=2))


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in ("gpt2", "qwen2") for name in ("dora", "ia3", "prompt", "prefix")]
    + [("qwen2", "oft")],
)
def test_other_architectures_agree_with_torch(make, rows, kind, name):
    network = make(kind, attention="eager", chunk_tokens=0, adapter=KINDS[name])
    disable_dropout(network)
    check(network, rows([[13], [9]]))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_second_run_of_dora_under_dropout_is_counted(make, rows, checkpointing):
    adapter = LoraSettings(rank=2, use_dora=True, dropout=0.5)
    network = make("llama", attention="eager", lora=adapter, gradient_checkpointing=checkpointing)
    check(network, rows([[13], [9]]))


@pytest.mark.parametrize(("adapter", "quantisation"), every_kind())
def test_scoring_agrees_with_torch(make, rows, adapter, quantisation):
    shape = dict(WIDE if quantisation else {})
    network = make("llama", attention="eager", adapter=adapter, quantisation=quantisation, shape=shape)
    with torch.no_grad():
        check(network, rows([[7], [9]]))
        with network.adapter_off():
            check(network, rows([[7], [9]]))


@needs_bitsandbytes
@pytest.mark.parametrize("quantisation", [NF4, FP4], ids=["nf4", "fp4"])
@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
def test_four_bits_of_other_architectures(make, rows, kind, quantisation):
    network = make(kind, attention="eager", lora=KINDS["lora"], quantisation=quantisation, shape=dict(WIDE))
    disable_dropout(network)
    check(network, rows([[13], [9]]))


@pytest.mark.parametrize("name", SEQUENCE)
def test_decoding_behind_virtual_tokens_agrees_with_torch(make, name):
    network = make("llama", attention="eager", adapter=KINDS[name])
    ledger, ids, padding = Ledger(), torch.ones(3, 5, dtype=torch.int64), torch.tensor([0, 2, 1])

    def decode():
        cache = network.new_cache(8)
        with network.decoding():
            for width in (5, 1, 1):
                mask = left_padded_mask(padding, length=cache.length + width, queries=width)
                network.decode(ids[:, :width], torch.zeros_like(ids[:, :width]), mask, cache, ledger=ledger)

    with ledger.phase(Phase.ROLLOUT):
        decode()
    with counted(ledger):
        decode()


def test_hand_counted_rotations(make, rows):
    """One layer of width 4 and an inner width of 8, all linear layers rotated in blocks of 2, scoring 3 tokens.

    Inputs: q, k, v, o, gate, up take 4, down takes 8: 32 per position, each times 2. A rotation has 3 products
    of 2 x 2 x 2 for each block: 16 blocks in all.
    """
    shape = {"hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    spent = []
    for adapter in (None, KINDS["oft"].__class__(block_size=2)):
        network = make("llama", shape={**shape, "num_key_value_heads": 1}, chunk_tokens=0, adapter=adapter)
        ledger = Ledger()
        with ledger.phase(Phase.SCORING), torch.no_grad():
            token_logprobs(network, rows([[3]]), ledger=ledger)
        spent.append(ledger.spent[Phase.SCORING].flops)
    assert spent[1] - spent[0] == 2 * 3 * 32 * 2 + 2 * 3 * 16 * 8
