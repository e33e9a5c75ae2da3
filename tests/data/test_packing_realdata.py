"""Packing on chain-of-thought data: hardly any padding, no token lost, the loss of the unpacked step."""

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from lit_posttrain.data import ChatData
from lit_posttrain.data.preparation import Preparation
from lit_posttrain.data.sources import Table
from lit_posttrain.data.sources.mixture import Mixture
from lit_posttrain.data.steps import Cut, layout
from lit_posttrain.networks import NetworkConfig, build, token_logprobs
from lit_posttrain.objectives.masked import weighted_sum
from lit_posttrain.ranks import Ranks
from lit_posttrain.text import ChatText

pytestmark = pytest.mark.realdata
ROW_TOKENS = 1024


@pytest.fixture(scope="module")
def text(request):
    file = request.config.getoption("--realdata") / "gpt2-tokenizer" / "tokenizer.json"
    return ChatText(PreTrainedTokenizerFast(tokenizer_file=str(file), eos_token="<|endoftext|>"), "plain")


@pytest.fixture(scope="module")
def source(request):
    """Question to rationale, of all seven tasks."""
    files = sorted((request.config.getoption("--realdata") / "flan_cot").glob("*.jsonl.gz"))
    return Mixture([Table(str(file), "question", "rationale", held_out_share=0.01) for file in files])


@pytest.fixture(scope="module")
def data(text, source):
    def made(**settings):
        return ChatData(source, text=text, validation_split=None, preparation=Preparation(2), **settings)

    return made


@pytest.fixture(scope="module")
def steps(data):
    """The lengths of the sequences of every step of an epoch, and all lengths."""
    loader = data(batch_sequences=0, batch_tokens=16 * ROW_TOKENS).train_dataloader()
    return [loader.lengths[rows] for rows in loader.order.epoch(0)], loader.lengths


@pytest.mark.parametrize(("k", "ranks"), [(1, 1), (4, 1), (2, 4)])
def test_positions_are_real_tokens(steps, k, ranks):
    lengths, every = steps
    tokens = positions = 0
    for sizes in lengths:
        plan = layout(sizes.tolist(), Cut(k, True, ROW_TOKENS, Ranks(0, ranks)))
        rows = [[sum(sizes[i] for i in row) for row in part] for parts in plan for part in parts]
        tokens += sum(map(sum, rows))
        positions += sum(len(part) * max(part) for part in rows if part)
        assert max(map(max, rows)) <= ROW_TOKENS
    assert tokens == every.sum()
    print(
        f"{k} micro-batches on {ranks} ranks: {tokens / positions:.4f} of {positions:,} positions are tokens"
    )
    assert tokens / positions >= 0.95


def test_steps_of_sequences_are_packed_as_well(data):
    loader = data(batch_sequences=64, packed=True, row_tokens=ROW_TOKENS).train_dataloader()
    loader.cut = loader.builder.cut = Cut(2, True, ROW_TOKENS)
    tokens = positions = 0
    for batch, _ in zip(loader, range(100), strict=False):
        tokens += int((batch.segments > 0).sum())
        positions += batch.segments.numel()
    assert tokens / positions >= 0.95


def test_packed_loss_and_gradient_are_those_unpacked(data):
    shape = {"model_type": "llama", "vocab_size": 50257, "hidden_size": 16, "intermediate_size": 32}
    shape |= {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    network = build(NetworkConfig(config=shape | {"max_position_embeddings": 2048, "initializer_range": 0.2}))
    results = []
    for packed in (False, True):
        network.zero_grad()
        settings = {"packed": True, "row_tokens": ROW_TOKENS} if packed else {}
        batch = next(iter(data(batch_sequences=24, **settings).train_dataloader()))
        loss = weighted_sum(-token_logprobs(network, batch), batch.weights)
        loss.backward()
        named = [(n, p.grad.clone()) for n, p in network.named_parameters() if p.grad is not None]
        results.append((float(loss.detach()), named))
        assert batch.is_packed == packed
    (loss, gradients), (other, others) = results
    assert other == pytest.approx(loss, abs=1e-5)
    differences = [float((g - o).abs().max()) for (_, g), (_, o) in zip(gradients, others, strict=True)]
    assert np.max(differences) < 1e-5
    assert torch.isfinite(gradients[0][1]).all()
