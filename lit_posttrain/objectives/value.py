"""Learning values of tokens: their loss, and how much of the returns they explain."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lit_posttrain.objectives.masked import masked_mean
from lit_posttrain.objectives.whitening import differ, whitened

__all__ = ["explained_variance", "value_loss", "whitened"]


def value_loss(
    values: Float[Tensor, "B T"],
    old_values: Float[Tensor, "B T"],
    returns: Float[Tensor, "B T"],
    *,
    clip: float | None,
) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Half the squared error of each token's value, and which of them are held by the clip.

    With `clip` the loss is the larger one of that of the value and that of the value held within ±clip of the old one:
    a value that has moved by more towards its return has no gradient. One that has moved away keeps it.

    Source: Schulman et al. 2017, the PPO2 code of OpenAI baselines; not in the paper.
    """
    plain = (values - returns).square() / 2
    if clip is None:
        return plain, torch.zeros_like(plain, dtype=torch.bool)
    near = old_values + (values - old_values).clamp(-clip, clip)
    bounded = (near - returns).square() / 2
    return torch.maximum(plain, bounded), bounded > plain


def explained_variance(
    values: Float[Tensor, "B T"], returns: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, ""]:
    """1 - variance(return - value) / variance(return) under the mask: 1 is perfect, a constant value gives 0.

    Below 0 values are worse than a constant. A constant offset is not seen. 0 where the returns are all equal or
    there are none: there is nothing to explain.
    """
    errors, targets = (returns - values).double(), returns.double()
    left, whole = _variance(errors, mask), _variance(targets, mask)
    known = differ(returns, mask) & (whole > 0)
    return torch.where(known, 1 - left / torch.where(known, whole, 1.0), 0.0).to(values.dtype)


def _variance(values: Tensor, mask: Tensor) -> Tensor:
    return masked_mean((values - masked_mean(values, mask)).square(), mask)
