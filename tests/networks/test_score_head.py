import logging

import pytest
import torch
from fakes import tiny
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from lit_posttrain.batches import TokenBatch
from lit_posttrain.errors import InputError
from lit_posttrain.ledger import Ledger, Phase
from lit_posttrain.networks import (
    IA3,
    LoraSettings,
    NetworkConfig,
    PromptTuning,
    ScoreHead,
    build,
    estimate,
    last_tokens,
    stored_head,
)

GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
GPT2 |= {"bos_token_id": 0, "eos_token_id": 0}
SEQUENCES = [[3, 4, 5, 6, 7], [8, 9], [10, 11, 12, 3, 4, 5, 6]]


def batch(rows: list[list[list[int]]], width: int) -> TokenBatch:
    """Rows of packed sequences, padded with token 0."""
    ids, segments, positions = (torch.zeros(len(rows), width, dtype=torch.int64) for _ in range(3))
    number = 0
    for r, row in enumerate(rows):
        start = 0
        for sequence in row:
            number, stop = number + 1, start + len(sequence)
            ids[r, start:stop] = torch.tensor(sequence)
            segments[r, start:stop] = number
            positions[r, start:stop] = torch.arange(len(sequence))
            start = stop
    real = segments > 0
    return TokenBatch(ids, segments, positions, real, real.float())


def scores(network, given: TokenBatch) -> torch.Tensor:
    return network.scores(given, last_tokens(given))


def test_last_tokens():
    given = batch([SEQUENCES[:2], SEQUENCES[2:]], 9)
    assert last_tokens(given).nonzero().tolist() == [[0, 4], [0, 6], [1, 6]]
    assert last_tokens(batch([[[3, 4]], [[5]]], 2)).nonzero().tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("shape", [{}, GPT2, {"model_type": "qwen2"}], ids=["llama", "gpt2", "qwen2"])
def test_padded_packed_and_alone_score_the_same(shape):
    network = build(tiny(head=ScoreHead(2), shape=shape)).eval()
    alone = torch.cat([scores(network, batch([[one]], len(one))) for one in SEQUENCES])
    padded = scores(network, batch([[one] for one in SEQUENCES], 12))
    packed = scores(network, batch([SEQUENCES[:2], SEQUENCES[2:]], 10))
    assert alone.shape == (3, 2)
    assert (padded - alone).abs().max() < 1e-6
    assert (packed - alone).abs().max() < 1e-6


def test_score_is_the_head_on_the_last_state():
    network = build(tiny(head=ScoreHead(2, std=0.5)))
    given = batch([[one] for one in SEQUENCES], 8)
    states = network.hidden(given)
    weight = network.causal.score.weight
    by_hand = torch.stack([weight @ states[i, len(one) - 1] for i, one in enumerate(SEQUENCES)])
    assert (scores(network, given) - by_hand).abs().max() < 1e-6


def test_head_is_float32_under_autocast_and_in_bfloat16():
    given = batch([[one] for one in SEQUENCES], 8)
    network = build(tiny(head=ScoreHead(3)))
    with torch.autocast("cpu", torch.bfloat16):
        states = network.hidden(given)[last_tokens(given)]
        found = scores(network, given)
    assert found.dtype == torch.float32
    assert (found - states.float() @ network.causal.score.weight.T).abs().max() < 1e-6
    low = build(tiny(head=ScoreHead(3), dtype="bfloat16"))
    assert scores(low, given).dtype == torch.float32


def test_fresh_head_depends_on_its_seed_alone():
    def head(**settings):
        network = build(tiny(head=ScoreHead(**settings), seed=settings.get("seed", 0) + 5))
        return network.causal.score.weight.detach()

    three = head(heads=3)
    assert torch.equal(three, head(heads=3))
    assert torch.equal(three[:1], head(heads=1))  # a member does not depend on how many there are
    assert len({tuple(row.tolist()) for row in three}) == 3
    assert not torch.equal(three, head(heads=3, seed=1))
    assert float(head(heads=200).std()) == pytest.approx(33**-0.5, rel=0.03)  # H = 32, 6400 numbers
    assert float(head(heads=200, std=0.0).abs().max()) == 0


@pytest.fixture(scope="module")
def causal_folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("causal")
    build(tiny()).causal.save_pretrained(place)
    return str(place)


def test_causal_folder_gets_a_fresh_head_quietly(causal_folder, caplog):
    with caplog.at_level(logging.WARNING):
        network = build(NetworkConfig(path=causal_folder, head=ScoreHead(2)))
    assert not caplog.records
    names = dict(network.named_parameters())
    assert not any("lm_head" in name for name in names)
    assert torch.equal(names["model.score.weight"], build(tiny(head=ScoreHead(2))).causal.score.weight)
    whole = AutoModelForCausalLM.from_pretrained(causal_folder)
    assert torch.equal(names["model.model.norm.weight"], whole.model.norm.weight)
    assert torch.equal(names["model.model.embed_tokens.weight"], whole.model.embed_tokens.weight)


@pytest.fixture(scope="module")
def reward_folder(tmp_path_factory, causal_folder):
    """A classifier of another program: transformers' own head."""
    place = tmp_path_factory.mktemp("reward")
    torch.manual_seed(3)
    config = AutoConfig.from_pretrained(causal_folder, num_labels=2, pad_token_id=0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(place)
    return str(place)


def test_classifier_folder_brings_its_head(reward_folder):
    assert stored_head(reward_folder) == ScoreHead(2)
    network = build(NetworkConfig(path=reward_folder, head=ScoreHead(2, seed=9))).eval()
    theirs = AutoModelForSequenceClassification.from_pretrained(reward_folder).eval()
    given = batch([[one] for one in SEQUENCES], 7)
    with torch.no_grad():
        expected = theirs(given.input_ids, attention_mask=(given.segments > 0).long()).logits
        assert (scores(network, given) - expected).abs().max() < 1e-6


def test_wrong_heads_are_refused(reward_folder, causal_folder, tmp_path):
    with pytest.raises(InputError, match=r"head of 2 scores, and head\.heads is 1"):
        build(NetworkConfig(path=reward_folder, head=ScoreHead()))
    with pytest.raises(InputError, match="it has no logits"):
        build(NetworkConfig(path=reward_folder))
    with pytest.raises(InputError, match="has no reward head"):
        stored_head(causal_folder)
    with pytest.raises(InputError, match="at least 1"):
        ScoreHead(0)
    with pytest.raises(InputError, match="not negative"):
        ScoreHead(std=-1.0)
    with pytest.raises(InputError, match=r"Bert.* no single linear layer"):
        build(NetworkConfig(config={"model_type": "bert"}, head=ScoreHead()))


def test_a_classifier_without_its_head_is_refused(causal_folder, tmp_path):
    whole = AutoModelForCausalLM.from_pretrained(causal_folder)
    whole.save_pretrained(tmp_path / "claims")
    place = tmp_path / "claims" / "config.json"
    place.write_text(place.read_text().replace("LlamaForCausalLM", "LlamaForSequenceClassification"))
    with pytest.raises(InputError, match=r"lacks 1 weights .*'score\.weight'"):
        build(NetworkConfig(path=str(tmp_path / "claims"), head=ScoreHead(2)))


def test_each_network_says_what_it_has_not():
    given = batch([SEQUENCES[:1]], 5)
    with pytest.raises(InputError, match="no logits"):
        build(tiny(head=ScoreHead()))(given)
    with pytest.raises(InputError, match="no score head"):
        scores(build(tiny()), given)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("adapter", [LoraSettings(rank=2), IA3(), PromptTuning(2)], ids=lambda a: a.label)
def test_adapters_train_with_the_head(adapter, dtype):
    settings = tiny(head=ScoreHead(2), adapter=adapter, dtype=dtype)
    network, bare = build(settings), build(tiny(head=ScoreHead(2), dtype=dtype))
    trained = dict(n for n in network.named_parameters() if n[1].requires_grad)
    heads = {name: p for name, p in trained.items() if "score" in name}
    assert [p.dtype for p in heads.values()] == [torch.float32]
    assert len(trained) > 1
    assert (
        network.base_digest
        == build(tiny(head=ScoreHead(1, seed=4), adapter=adapter, dtype=dtype)).base_digest
    )
    given = batch([[one] for one in SEQUENCES], 8)
    with network.adapter_off():
        assert torch.equal(scores(network, given), scores(bare, given))
    scores(network, given).sum().backward()
    assert all(p.grad is not None for p in trained.values())


def test_settings_survive_a_checkpoint():
    for settings in (tiny(head=ScoreHead(3, 1, 0.5), lora=LoraSettings()), tiny()):
        assert NetworkConfig.from_dict(settings.to_dict()) == settings
    assert NetworkConfig.from_dict({k: v for k, v in tiny().to_dict().items() if k != "head"}) == tiny()


def test_memory_is_exact_and_without_logits():
    settings = tiny(head=ScoreHead(3))
    network = build(settings)
    assert estimate(settings).weights == sum(p.numel() * p.itemsize for p in network.parameters())
    assert estimate(settings, micro_batch_tokens=100).logits == 100 * 3 * 4 * 2


def test_flops_of_the_head():
    """Beside the trunk, 2 N H K forward, and as much again for each of two gradients."""

    def spent(heads: int, backward: bool) -> float:
        network, ledger, given = (
            build(tiny(head=ScoreHead(heads))),
            Ledger(),
            batch([SEQUENCES[:2], SEQUENCES[2:]], 9),
        )
        with ledger.phase(Phase.UPDATE), torch.set_grad_enabled(backward):
            network.scores(given, last_tokens(given), ledger=ledger)
        return ledger.training.flops

    assert spent(5, False) - spent(1, False) == 2 * 3 * 32 * 4
    assert spent(5, True) - spent(1, True) == 3 * 2 * 3 * 32 * 4
