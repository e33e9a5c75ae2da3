from contextlib import contextmanager

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lit_posttrain.errors import InputError
from lit_posttrain.ledger import Ledger, Phase
from lit_posttrain.networks.dropout import disable_dropout
from lit_posttrain.networks.logprobs import token_logprobs
from lit_posttrain.networks.lora import LoraSettings
from lit_posttrain.networks.masks import left_padded_mask

KINDS = ["llama", "gpt2", "qwen2", "gemma2"]
LORA = LoraSettings(rank=2)
QUERY_ONLY = LoraSettings(rank=2, target_modules=["q_proj"])
ATTENTION_ONLY = LoraSettings(rank=2, target_modules=["k_proj", "v_proj", "o_proj"])


@contextmanager
def counted(ledger: Ledger):
    """Torch's own counter around a block, as the oracle; the ledger must agree to 0.1 %.

    The rates are found by the caller beforehand, so that torch does not count the probe.
    """
    counter = FlopCounterMode(display=False)
    spent = ledger.spent[Phase.UPDATE].flops
    with counter, ledger.phase(Phase.UPDATE):
        yield
    booked = ledger.spent[Phase.UPDATE].flops - spent
    assert booked == pytest.approx(counter.get_total_flops(), rel=1e-3)


def train(network, batch, ledger):
    result = token_logprobs(network, batch, ledger=ledger)
    if result.requires_grad:
        result.sum().backward()


def check(network, batch):
    disable_dropout(network)
    ledger = Ledger()
    with ledger.phase(Phase.SCORING):
        train(network, batch, ledger)
    with counted(ledger):
        train(network, batch, ledger)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk_tokens", [0, 5])
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_agrees_with_torch(make, rows, kind, chunk_tokens, lora, checkpointing):
    network = make(
        kind, attention="eager", chunk_tokens=chunk_tokens, lora=lora, gradient_checkpointing=checkpointing
    )
    check(network, rows([[13], [9]], extra=2))
    check(network, rows([[7, 5], [9]]))


@pytest.mark.parametrize("lora", [QUERY_ONLY, ATTENTION_ONLY], ids=["query", "attention"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_partly_frozen_layers_agree_with_torch(make, rows, lora, checkpointing):
    network = make("llama", attention="eager", lora=lora, gradient_checkpointing=checkpointing)
    check(network, rows([[13], [9]]))


def test_a_frozen_half_agrees_with_torch(make, rows):
    network = make("llama", attention="eager", chunk_tokens=0)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("layers.1.mlp" in name)
    check(network, rows([[13], [9]]))


@pytest.mark.parametrize("kind", KINDS)
def test_scoring_agrees_with_torch(make, rows, kind):
    network = make(kind, attention="eager", lora=LORA, chunk_tokens=4)
    batch = rows([[7, 5], [9]], extra=3)
    batch.mask[:, :4] = False
    with torch.no_grad():
        check(network, batch)
        with network.adapter_off():
            check(network, batch)


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_agrees_with_torch(make, kind):
    network = make(kind, attention="eager")
    ledger = Ledger()
    ids, padding = torch.ones(3, 5, dtype=torch.int64), torch.tensor([0, 2, 1])

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
    spent = ledger.spent[Phase.UPDATE]
    assert spent.positions == 3 * 7
    assert spent.causal_flops < spent.flops


def test_hand_counted_forward_and_causal_triangle(make, rows):
    """One layer of width 4: every product written out for two sequences of 2 and 1 tokens.

    Positions: one packed row of 3. Layer: q 4x4, k 4x2, v 4x2, o 4x4 and gate, up, down 4x6 each: 48 + 72
    multiply-adds. Head 4x61 at the one position whose next token counts. Attention: 2 heads of 2, 2 products.
    """
    shape = {"hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = make("llama", shape={**shape, "num_key_value_heads": 1}, chunk_tokens=0)
    ledger = Ledger()
    with ledger.phase(Phase.SCORING), torch.no_grad():
        token_logprobs(network, rows([[2, 1]]), ledger=ledger)
    spent = ledger.spent[Phase.SCORING]
    linear, head = 2 * 3 * 120, 2 * 4 * 61
    assert spent.flops == linear + head + 2 * 2 * 4 * 9  # 3 x 3 pairs
    assert spent.causal_flops == linear + head + 2 * 2 * 4 * 4  # 3 pairs of the first, 1 of the second
    assert spent.positions == 3


def test_the_backward_to_come_is_booked_only_where_there_is_one(make, rows):
    network, ledger, batch = make(chunk_tokens=0), Ledger(), rows([[8]])
    with ledger.phase(Phase.UPDATE):
        token_logprobs(network, batch, ledger=ledger)
    with ledger.phase(Phase.SCORING), torch.no_grad():
        token_logprobs(network, batch, ledger=ledger)
    assert ledger.spent[Phase.UPDATE].flops == pytest.approx(3 * ledger.spent[Phase.SCORING].flops)


def test_finding_the_rates_leaves_no_trace(make, rows):
    network = make("gpt2")
    state = torch.get_rng_state()
    with Ledger().phase(Phase.UPDATE):
        ledger = Ledger()
        with ledger.phase(Phase.UPDATE):
            token_logprobs(network.eval(), rows([[8]]), ledger=ledger)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(state, torch.get_rng_state())
    assert not any(module._forward_hooks for module in network.modules())


def test_unknown_weights_are_refused(make, rows):
    network, ledger = make(), Ledger()
    network.model.model.layers[0].experts = torch.nn.ParameterList([torch.zeros(2, 3, 4)])
    with ledger.phase(Phase.UPDATE), pytest.raises(InputError, match="experts"):
        token_logprobs(network, rows([[4]]), ledger=ledger)
