"""Advantages from parts of the reward that are normalised one by one."""

from dataclasses import dataclass
from math import isfinite
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lit_posttrain.contracts import Advantage
from lit_posttrain.errors import InputError
from lit_posttrain.objectives.advantages import Deviation, centred, informative_groups, scaled
from lit_posttrain.objectives.whitening import wide


@dataclass(frozen=True)
class PartwiseAdvantage(Advantage):
    """Each part of the reward is centred and normalised within its group, and then the weighted parts are summed.

    Where parts are summed first, different mixtures of them can have one sum, and a part with a wide range drowns the
    others; here a weight says how much a part counts whatever its unit. Parts that are equal within a group add
    exactly 0.

    Source: Liu et al. 2026 (GDPO), arXiv:2601.05242, which divides by the group's deviation and normalises over the
    batch afterwards. The mean over the batch is 0 by construction, so that "then" only divides.

    Args:
        weights: The weight of each part, by its name in the grade; below 0 for one that is to be small.
        deviation: What each part is divided by, as in GroupAdvantage.
        then: Divide the sums by their standard deviation over the batch, or leave them.
    """

    weights: dict[str, float]
    deviation: Deviation = "group"
    then: Literal["none", "batch"] = "none"

    def __post_init__(self) -> None:
        if not any(self.weights.values()) or not all(map(isfinite, self.weights.values())):
            raise InputError(
                "PartwiseAdvantage needs a weight for each part of the reward, finite and not all 0 (got "
                f"{self.weights}); name the parts as the grader does, or use GroupAdvantage for their sum"
            )
        object.__setattr__(self, "parts", tuple(self.weights))

    def __call__(self, parts: Float[Tensor, "P G K"], graded: Bool[Tensor, "P G"]) -> Float[Tensor, "P G"]:
        """Advantages (P, G) from parts in the order of the weights."""
        self._check(parts)
        total = torch.zeros_like(wide(parts[..., 0]))
        for part, weight in zip(parts.unbind(dim=-1), self.weights.values(), strict=True):
            total = total + weight * scaled(centred(part, graded), graded, self.deviation)
        return scaled(total, graded, self.then).to(parts.dtype)

    def informative(self, parts: Float[Tensor, "P G K"], graded: Bool[Tensor, "P G"]) -> Bool[Tensor, " P"]:
        """Groups in which a part differs that has a weight."""
        self._check(parts)
        found = torch.zeros(len(graded), dtype=torch.bool, device=graded.device)
        for part, weight in zip(parts.unbind(dim=-1), self.weights.values(), strict=True):
            if weight:
                found |= informative_groups(part, graded)
        return found

    def _check(self, parts: Tensor) -> None:
        if parts.shape[-1] != len(self.weights):
            raise ValueError(
                f"PartwiseAdvantage has weights for {len(self.weights)} parts and was given {parts.shape[-1]}"
            )
