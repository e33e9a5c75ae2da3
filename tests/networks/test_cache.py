import pytest
import torch

from lit_posttrain.ledger import Ledger, Phase
from lit_posttrain.networks.masks import left_padded_mask

KINDS = ["llama", "gpt2", "qwen2", "gemma2"]
PROMPTS = [[5, 6, 7, 8, 9], [11, 12], [21, 22, 23]]
PADDING = torch.tensor([0, 3, 2])
NEW = torch.tensor([[31, 32, 33], [41, 42, 43], [51, 52, 53]])


def prompts() -> torch.Tensor:
    return torch.tensor([[0] * (5 - len(prompt)) + prompt for prompt in PROMPTS])


def step(network, ids, padding, cache):
    length = cache.length + ids.shape[1]
    positions = (torch.arange(cache.length, length) - padding[:, None]).clamp_min(0)
    mask = left_padded_mask(padding, length=length, queries=ids.shape[1])
    return network.decode(ids, positions, mask, cache)


def reference(network, row: int, new: int) -> torch.Tensor:
    ids = torch.tensor([PROMPTS[row] + NEW[row, :new].tolist()])
    with network.decoding():
        return network.model(input_ids=ids).logits[0, -1].float()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_decoding_equals_the_whole_sequence_alone(make, kind, attention):
    """Left-padded prompts, repeated and reordered rows; Gemma 2 decodes beyond its window of 4."""
    network = make(kind, attention="eager" if kind == "gemma2" else attention)
    cache = network.new_cache(8)
    with network.decoding():
        logits = step(network, prompts(), PADDING, cache)
        for row in range(3):
            assert torch.allclose(logits[row], reference(network, row, 0), atol=1e-5)
        cache.repeat(2)
        assert (cache.rows, cache.length) == (6, 5)
        owner = torch.tensor([0, 0, 1, 1, 2, 2])
        step(network, NEW[owner, :1], PADDING[owner], cache)
        kept = torch.tensor([4, 1, 3])
        cache.select(kept)
        owner = owner[kept]
        logits = step(network, NEW[owner, 1:2], PADDING[owner], cache)
    assert logits.dtype == torch.float32
    for place, row in enumerate(owner.tolist()):
        assert torch.allclose(logits[place], reference(network, row, 2), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_no_mask_needed_without_padding(make, kind):
    network = make(kind)
    cache = network.new_cache(8)
    ids = torch.tensor([PROMPTS[0] + NEW[0].tolist()])
    with network.decoding():
        network.decode(ids[:, :5], torch.arange(5)[None], None, cache)
        logits = network.decode(ids[:, 5:], torch.arange(5, 8)[None], None, cache)
    assert torch.allclose(logits[0], reference(network, 0, 3), atol=1e-5)


def test_the_cache_is_written_in_place_and_never_grows(make):
    network = make()
    cache = network.new_cache(6)
    assert cache.rows == 0
    with network.decoding():
        step(network, prompts(), PADDING, cache)
        keys = cache.parts[0].keys
        step(network, NEW[:, :1], PADDING, cache)
        assert cache.parts[0].keys is keys
        assert keys.shape == (3, 2, 6, 8)
        with pytest.raises(ValueError, match="room for 6 tokens and was given 7"):
            step(network, NEW[:, :1], PADDING, cache)


def test_decoding_restores_the_mode_of_every_part(make):
    network = make(gradient_checkpointing=True)
    network.model.model.layers[0].eval()
    before = [module.training for module in network.modules()]
    with network.decoding():
        assert not any(module.training for module in network.modules())
        assert not torch.is_grad_enabled()
    assert [module.training for module in network.modules()] == before
    with pytest.raises(RuntimeError, match=r"decoding\(\)"):
        network.decode(prompts(), torch.zeros_like(prompts()), None, network.new_cache(8))


def test_an_update_is_seen_by_the_next_decode(make):
    """Nothing of the old weights is kept: after a large step the same prompt has other logits."""
    network, ledger = make(), Ledger()
    with network.decoding():
        before = step(network, prompts(), PADDING, network.new_cache(5))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))
    with network.decoding(), ledger.phase(Phase.ROLLOUT):
        after = step(network, prompts(), PADDING, network.new_cache(5))
    assert (after - before).abs().max() > 0.1
    assert torch.allclose(after[0], reference(network, 0, 0), atol=1e-4)
