"""Decoding with grouped key heads, without copying the cache.

transformers repeats every key head for the query heads that share it before it calls torch's kernel with a
mask: at one new token per row that copy of the whole cache costs far more than the attention itself. Here
the query heads of a group become the rows of one query instead.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

GROUPED = "sdpa_grouped"


def grouped_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention of query (R, H, t, D) over key and value (R, K, L, D); returns (R, t, H, D).

    For t = 1 the H / K query heads of a key head share its mask, so they can stand as its queries; all else
    goes to transformers' own function.
    """
    rows, heads, queries, dimension = query.shape
    groups = key.shape[1]
    if queries != 1 or groups == heads or kwargs.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    folded = functional.scaled_dot_product_attention(
        query.reshape(rows, groups, heads // groups, dimension),
        key,
        value,
        attn_mask=attention_mask,
        dropout_p=kwargs.get("dropout", 0.0),
        scale=kwargs.get("scaling"),
    )
    return folded.reshape(rows, 1, heads, value.shape[-1]), None


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, sdpa_mask)


@contextmanager
def portable(config: Any) -> Iterator[None]:
    """Runs the block with a kernel that works on every device and in every dtype, where flash attention is set."""
    kernel = config._attn_implementation
    if kernel == "flash_attention_2":
        config._attn_implementation = GROUPED
    try:
        yield
    finally:
        config._attn_implementation = kernel
