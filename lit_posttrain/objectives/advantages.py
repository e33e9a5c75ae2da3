"""Advantages of whole completions, relative to others of the same problem."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lit_posttrain.contracts import Advantage

EPSILON = 1e-6
"""Added to a standard deviation before dividing by it."""


def group_mean_and_std(
    rewards: Float[Tensor, "P G"], graded: Bool[Tensor, "P G"]
) -> tuple[Float[Tensor, "P 1"], Float[Tensor, "P 1"]]:
    """Mean and unbiased standard deviation of the graded rewards of each group; 0 where there are too few."""
    count = graded.sum(dim=1, keepdim=True)
    kept = torch.where(graded, rewards, torch.zeros_like(rewards))
    mean = kept.sum(dim=1, keepdim=True) / count.clamp(min=1)
    squares = torch.where(graded, (rewards - mean).square(), torch.zeros_like(rewards)).sum(
        dim=1, keepdim=True
    )
    return mean, (squares / (count - 1).clamp(min=1)).sqrt()


def informative_groups(rewards: Float[Tensor, "P G"], graded: Bool[Tensor, "P G"]) -> Bool[Tensor, " P"]:
    """Groups whose graded rewards are not all equal, by exact comparison: only these teach anything."""
    infinity = torch.full_like(rewards, torch.inf)
    highest = torch.where(graded, rewards, -infinity).amax(dim=1)
    lowest = torch.where(graded, rewards, infinity).amin(dim=1)
    return highest > lowest


def group_relative(
    rewards: Float[Tensor, "P G"], graded: Bool[Tensor, "P G"], *, scale: bool = True
) -> Float[Tensor, "P G"]:
    """Reward minus the mean of its group, optionally divided by the group's standard deviation.

    Ungraded samples get 0 and stay out of mean and deviation. A group whose graded rewards are all equal gets
    exactly 0: a rounding residue divided by `EPSILON` would be taken for a signal.

    Source: Shao et al. 2024, arXiv:2402.03300, section 4.1.2; without the scale Liu et al. 2025 (Dr. GRPO),
    arXiv:2503.20783.
    """
    mean, deviation = group_mean_and_std(rewards, graded)
    advantage = rewards - mean
    if scale:
        advantage = advantage / (deviation + EPSILON)
    live = graded & informative_groups(rewards, graded)[:, None]
    return torch.where(live, advantage, torch.zeros_like(advantage))


@dataclass(frozen=True)
class GroupAdvantage(Advantage):
    """Group-relative advantage: reward parts are summed, then compared within their group.

    Args:
        scale: Divide by the standard deviation of the group (GRPO); without it the advantage keeps the unit of
            the reward (Dr. GRPO).
    """

    scale: bool = True

    def __call__(self, parts: Float[Tensor, "P G K"], graded: Bool[Tensor, "P G"]) -> Float[Tensor, "P G"]:
        """Advantages (P, G)."""
        return group_relative(parts.sum(dim=-1), graded, scale=self.scale)
