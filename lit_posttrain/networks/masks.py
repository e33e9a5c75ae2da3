"""Which token may attend to which: packed rows, left-padded prompts, sliding windows."""

from typing import Any

import torch
from torch import Tensor

from lit_posttrain.batches import TokenBatch


def is_plain(batch: TokenBatch) -> bool:
    """Whether every token's position is its column: one sequence per row, padded on the right.

    Then causal attention alone is exact, since no token sees what stands right of it.
    """
    columns = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
    return bool(((batch.position_ids == columns) | (batch.segments == 0)).all())


def segment_mask(segments: Tensor) -> Tensor:
    """(B, 1, T, T) bool from `segments` (B, T): each token sees itself and what precedes it in its segment.

    Padding is a segment of its own, so that no row of the mask is empty (an empty softmax is NaN).
    """
    tokens = segments.shape[1]
    causal = torch.ones(tokens, tokens, dtype=torch.bool, device=segments.device).tril()
    return ((segments[:, :, None] == segments[:, None, :]) & causal)[:, None]


def left_padded_mask(padding: Tensor, *, length: int, queries: int) -> Tensor:
    """(R, 1, queries, length) bool: the last `queries` of `length` columns, the first `padding` (R,) unseen.

    A padding token sees itself, so that no row of the mask is empty.
    """
    keys = torch.arange(length, device=padding.device)
    own = torch.arange(length - queries, length, device=padding.device)[:, None]
    seen = (keys <= own) & (keys >= padding[:, None, None])
    return (seen | (keys == own))[:, None]


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A bool mask as numbers to add to attention scores: 0 where seen, the most negative number elsewhere."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)


def within_window(mask: Tensor, window: int) -> Tensor:
    """`mask` (..., Q, K) without keys `window` or more columns back; the last query is the last column."""
    queries, keys = mask.shape[-2:]
    own = torch.arange(keys - queries, keys, device=mask.device)[:, None]
    return mask & (own - torch.arange(keys, device=mask.device) < window)


def for_layers(mask: Tensor, config: Any, dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
    """The mask as the network's layers take it: numbers for eager attention, one per layer type with windows.

    Sources: transformers passes a 4-D mask on as it is, and takes a mapping where `layer_types` is mixed.
    """
    eager = config._attn_implementation == "eager"
    window, types = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    if window is None or mask.shape[-1] <= window or (types and "sliding_attention" not in types):
        return additive(mask, dtype) if eager else mask
    narrow = within_window(mask, window)
    if eager:
        mask, narrow = additive(mask, dtype), additive(narrow, dtype)
    return {"full_attention": mask, "sliding_attention": narrow} if types else narrow
