"""Reductions under a mask, exact where the mask is empty."""

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor


def masked_sum(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """The sum of the values under the mask; 0 where nothing is. What is outside may even be NaN."""
    return torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device)).sum()


def masked_mean(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """The mean of the values under the mask; 0 where nothing is, never NaN."""
    return masked_sum(values, mask) / mask.sum().clamp(min=1)


def weighted_sum(values: Float[Tensor, "*shape"], weights: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """The weighted sum; a value with weight 0 counts as 0 and gets gradient 0, even if it is NaN or infinite."""
    safe = torch.where(weights != 0, values, torch.zeros((), dtype=values.dtype, device=values.device))
    return (weights * safe).sum()


def segment_sum(
    values: Num[Tensor, "B T"], segments: Int[Tensor, "B T"], sequences: int
) -> Num[Tensor, " S"]:
    """Sums of per-token values over each sequence 1..S; padding (segment 0) is left out."""
    out = torch.zeros(sequences + 1, dtype=values.dtype, device=values.device)
    return out.index_add(0, segments.reshape(-1), values.reshape(-1))[1:]


def per_token(values: Num[Tensor, " S"], segments: Int[Tensor, "B T"]) -> Num[Tensor, "B T"]:
    """Spreads a value per sequence over its tokens; padding gets 0."""
    padded = torch.cat([torch.zeros(1, dtype=values.dtype, device=values.device), values])
    return padded[segments]
