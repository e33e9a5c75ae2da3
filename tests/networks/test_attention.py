import torch
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from lit_posttrain.networks.attention import GROUPED, grouped_attention
from lit_posttrain.networks.masks import left_padded_mask


def test_folding_groups_changes_nothing():
    """Against transformers' own function, which repeats the key heads; heads 6 over 2, some keys hidden."""
    generator = torch.Generator().manual_seed(0)
    module = nn.Module()
    module.num_key_value_groups = 3  # type: ignore[assignment]
    query = torch.randn(2, 6, 1, 4, generator=generator)
    key, value = torch.randn(2, 2, 2, 5, 4, generator=generator)
    for mask in (None, left_padded_mask(torch.tensor([0, 2]), length=5, queries=1)):
        ours, _ = grouped_attention(module, query, key, value, mask, scaling=0.3, dropout=0.0)
        theirs, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.3, dropout=0.0)
        assert ours.shape == theirs.shape == (2, 1, 6, 4)
        assert torch.allclose(ours, theirs, atol=1e-6)
        assert not torch.allclose(ours, theirs.flip(2), atol=1e-2)


def test_networks_use_it(make):
    assert make().hf_config._attn_implementation == GROUPED
    assert make(attention="eager").hf_config._attn_implementation == "eager"
