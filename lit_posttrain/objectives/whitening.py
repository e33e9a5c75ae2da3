"""Values brought to mean 0 and standard deviation 1, exact where there is nothing to tell apart."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lit_posttrain.objectives.masked import masked_mean

EPSILON = 1e-6
"""Added to a standard deviation before dividing by it."""


def wide(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The same in float32 at least: sums of half-precision values lose bits, or overflow."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def differ(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Bool[Tensor, ""]:
    """Whether the values under the mask are not all equal, by exact comparison; not where there are none."""
    if not values.numel():
        return torch.zeros((), dtype=torch.bool, device=values.device)
    return torch.where(mask, values, -torch.inf).max() > torch.where(mask, values, torch.inf).min()


def whitened(
    values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], *, keep_mean: bool
) -> Float[Tensor, "*shape"]:
    """Values under the mask minus their mean, divided by their unbiased standard deviation; exactly 0 elsewhere.

    Where all are equal the result is exactly 0: a rounding residue divided by `EPSILON` would be taken for a signal.
    With `keep_mean` the mean is added again after the division, so that only the scale changes, and equal values
    stay what they are.
    """
    full = wide(values)
    mean = masked_mean(full, mask)
    centred = torch.where(mask & differ(values, mask), full - mean, 0.0)
    deviation = (centred.square().sum() / (mask.sum() - 1).clamp(min=1)).sqrt()
    scaled = centred / (deviation + EPSILON)
    if keep_mean:
        kept = torch.where(differ(values, mask), mean, full)
        scaled = torch.where(mask, scaled + kept, 0.0)
    return scaled.to(values.dtype)
