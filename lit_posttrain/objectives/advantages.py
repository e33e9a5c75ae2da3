"""Advantages of whole completions, relative to others of the same problem or of the batch.

Ungraded samples get 0 and are in no mean and no deviation, whatever stands in their place. Where all that is
compared is equal, by exact comparison, the advantage is exactly 0. Half-precision rewards are worked in float32.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lit_posttrain.contracts import Advantage
from lit_posttrain.objectives.whitening import EPSILON, differ, whitened, wide

Deviation = Literal["group", "batch", "none"]
"""What a centred reward is divided by: the standard deviation of its group, that of the batch, or nothing."""


def informative_groups(rewards: Float[Tensor, "P G"], graded: Bool[Tensor, "P G"]) -> Bool[Tensor, " P"]:
    """Groups whose graded rewards are not all equal, by exact comparison: only these teach anything."""
    if not rewards.shape[1]:
        return torch.zeros(len(rewards), dtype=torch.bool, device=rewards.device)
    highest = torch.where(graded, rewards, -torch.inf).amax(dim=1)
    lowest = torch.where(graded, rewards, torch.inf).amin(dim=1)
    return highest > lowest


def centred(rewards: Float[Tensor, "P G"], graded: Bool[Tensor, "P G"]) -> Float[Tensor, "P G"]:
    """Rewards minus the mean of their group, in float32 at least; exactly 0 in a group of equal ones."""
    full = torch.where(graded, wide(rewards), 0.0)
    mean = full.sum(dim=1, keepdim=True) / graded.sum(dim=1, keepdim=True).clamp(min=1)
    live = graded & informative_groups(rewards, graded)[:, None]
    return torch.where(live, full - mean, 0.0)


def scaled(
    centred: Float[Tensor, "P G"], graded: Bool[Tensor, "P G"], deviation: Deviation
) -> Float[Tensor, "P G"]:
    """Centred rewards divided by an unbiased standard deviation, their mean being 0 by construction.

    "batch" takes it over all graded samples of the batch. Groups of equal rewards count in it with their zeros: they
    make it smaller, and so the advantages of the others larger.
    """
    if deviation == "none":
        return centred
    squares, count = centred.square(), graded
    if deviation == "group":
        squares, count = squares.sum(dim=1, keepdim=True), count.sum(dim=1, keepdim=True)
    else:
        squares, count = squares.sum(), count.sum()
    return centred / ((squares / (count - 1).clamp(min=1)).sqrt() + EPSILON)


def group_relative(
    rewards: Float[Tensor, "P G"], graded: Bool[Tensor, "P G"], *, scale: bool = True
) -> Float[Tensor, "P G"]:
    """Reward minus the mean of its group, optionally divided by the group's standard deviation.

    A group whose graded rewards are all equal gets exactly 0: a rounding residue divided by `EPSILON` would be taken
    for a signal.

    Source: Shao et al. 2024, arXiv:2402.03300, section 4.1.2; without the scale Liu et al. 2025 (Dr. GRPO),
    arXiv:2503.20783.
    """
    return scaled(centred(rewards, graded), graded, "group" if scale else "none").to(rewards.dtype)


def effective_samples(advantages: Float[Tensor, " S"]) -> Float[Tensor, ""]:
    """(sum |a|)² / sum a²: how many samples of equal pull would say as much; 0 where all are 0.

    n advantages of one size give n, whatever their signs; one that dwarfs all others gives 1.
    """
    sizes = wide(advantages).abs()
    largest = torch.cat([sizes, sizes.new_zeros(1)]).max()
    shares = sizes / torch.where(largest > 0, largest, 1.0)  # squares of tiny ones would be 0
    return shares.sum().square() / shares.square().sum().clamp(min=1.0)


@dataclass(frozen=True)
class GroupAdvantage(Advantage):
    """Group-relative advantage: reward parts are summed, then compared within their group.

    Source: group: Shao et al. 2024 (GRPO), arXiv:2402.03300, section 4.1.2; none: Liu et al. 2025 (Dr. GRPO),
    arXiv:2503.20783; batch: Khatri et al. 2025 (ScaleRL), arXiv:2510.13786, section 3.

    Args:
        deviation: Divide by the standard deviation of the rewards of the group (GRPO), by that of all graded
            advantages of the batch, those of equal groups included (ScaleRL), or by none, so that the advantage
            keeps the unit of the reward (Dr. GRPO).
    """

    deviation: Deviation = "group"

    def __call__(self, parts: Float[Tensor, "P G K"], graded: Bool[Tensor, "P G"]) -> Float[Tensor, "P G"]:
        """Advantages (P, G)."""
        rewards = parts.sum(dim=-1)
        return scaled(centred(rewards, graded), graded, self.deviation).to(parts.dtype)

    def informative(self, parts: Float[Tensor, "P G K"], graded: Bool[Tensor, "P G"]) -> Bool[Tensor, " P"]:
        """Groups with different sums of parts."""
        return informative_groups(parts.sum(dim=-1), graded)


@dataclass(frozen=True)
class LeaveOneOut(Advantage):
    """Reward minus the mean of the *other* graded completions of the group (RLOO); parts are summed first.

    The baseline does not depend on the completion itself, so that the policy gradient is unbiased. It is n / (n - 1)
    times the reward minus the mean of all n. A group with one graded completion gets 0: there are no others.

    Source: Ahmadian et al. 2024, arXiv:2402.14740, after Kool et al. 2019.
    """

    def __call__(self, parts: Float[Tensor, "P G K"], graded: Bool[Tensor, "P G"]) -> Float[Tensor, "P G"]:
        """Advantages (P, G)."""
        count = graded.sum(dim=1, keepdim=True)
        from_mean = centred(parts.sum(dim=-1), graded)
        return (from_mean * count / (count - 1).clamp(min=1)).to(parts.dtype)

    def informative(self, parts: Float[Tensor, "P G K"], graded: Bool[Tensor, "P G"]) -> Bool[Tensor, " P"]:
        """Groups with different sums of parts."""
        return informative_groups(parts.sum(dim=-1), graded)


@dataclass(frozen=True)
class BatchWhitened(Advantage):
    """Rewards brought to mean 0 and standard deviation 1 over all graded completions of the batch (REINFORCE++).

    With the baseline "batch" a completion is compared with those of all problems, so that one completion per problem
    is enough, and easy problems push all of theirs up. With "group" the mean of the group is taken off first
    (REINFORCE++-baseline): the mean over the batch is then 0 already, and the numbers are those of
    GroupAdvantage(deviation="batch").

    Source: Hu et al. 2025, arXiv:2501.03262.

    Args:
        baseline: Whose mean is taken off: "batch" or "group".
    """

    baseline: Literal["batch", "group"] = "batch"

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs_group", self.baseline == "group")

    def __call__(self, parts: Float[Tensor, "P G K"], graded: Bool[Tensor, "P G"]) -> Float[Tensor, "P G"]:
        """Advantages (P, G)."""
        rewards = parts.sum(dim=-1)
        if self.baseline == "group":
            return scaled(centred(rewards, graded), graded, "batch").to(parts.dtype)
        return whitened(rewards, graded, keep_mean=False)

    def informative(self, parts: Float[Tensor, "P G K"], graded: Bool[Tensor, "P G"]) -> Bool[Tensor, " P"]:
        """Groups with different sums of parts; with the baseline "batch" all with a graded one, if any two differ."""
        rewards = parts.sum(dim=-1)
        if self.baseline == "group":
            return informative_groups(rewards, graded)
        return graded.any(dim=1) & differ(rewards, graded)
