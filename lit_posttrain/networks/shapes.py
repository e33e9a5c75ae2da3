"""The few numbers of a Hugging Face config that other files count with."""

import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class AttentionShape:
    """Layers, query heads, key heads and the dimension of each head."""

    layers: int
    heads: int
    key_heads: int
    head_dimension: int


def attention_shape(config: Any) -> AttentionShape:
    """Reads the shape of attention; configs without key heads or head dimension mean the usual ones."""
    heads = config.num_attention_heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dimension = getattr(config, "head_dim", None) or config.hidden_size // heads
    return AttentionShape(config.num_hidden_layers, heads, key_heads, head_dimension)


def max_positions(config: Any) -> int:
    """The longest sequence that the network was made for; no limit where the config states none."""
    return getattr(config, "max_position_embeddings", None) or sys.maxsize
