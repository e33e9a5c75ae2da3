"""Ratios of probabilities, of tokens and of whole sequences, from differences of log-probs that are held."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lit_posttrain.batches import TokenBatch
from lit_posttrain.objectives.masked import per_token, segment_sum

MAX_LOG_RATIO = 20.0
"""Differences of log-probs are held within this before they are exponentiated; exp(20) is 4.9e8."""

Scope = Literal["token", "sequence"]
"""What a ratio or an estimate is of: each token by itself, or the sequence that it belongs to."""


def held_exp(log_ratio: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """exp(log_ratio), held beyond ±`MAX_LOG_RATIO`, where its gradient is 0."""
    return torch.exp(log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))


def sequence_sum(values: Float[Tensor, "B T"], batch: TokenBatch) -> Float[Tensor, "B T"]:
    """The sum over the masked tokens of each sequence, at all its tokens; 0 at padding. Works under packing."""
    inside = torch.where(batch.mask, values, 0.0)
    return per_token(segment_sum(inside, batch.segments, batch.sequences), batch.segments)


def masked_tokens(batch: TokenBatch, like: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """How many masked tokens a sequence has, at all its tokens, in the type of `like`; 1 where it has none."""
    return sequence_sum(torch.ones_like(like), batch).clamp(min=1)


def sequence_mean(values: Float[Tensor, "B T"], batch: TokenBatch) -> Float[Tensor, "B T"]:
    """The mean over the masked tokens of each sequence, at all its tokens; 0 where it has none, and at padding.

    Of log-ratios: the logarithm of the geometric mean of the ratios.
    """
    return sequence_sum(values, batch) / masked_tokens(batch, values)
