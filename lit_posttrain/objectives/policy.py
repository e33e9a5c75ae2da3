"""Clipped surrogate losses of a policy, per token. Those without a bound on the ratio are in policy_gradient.py."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lit_posttrain.batches import Experience
from lit_posttrain.contracts import PolicyLoss, Stats
from lit_posttrain.errors import InputError
from lit_posttrain.objectives.ratios import held_exp, sequence_mean


def clipped_surrogate(
    log_ratio: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    *,
    low: float,
    high: float,
    dual: float | None = None,
) -> Float[Tensor, "B T"]:
    """The pessimistic bound -min(r A, clip(r, 1 - low, 1 + high) A) with r = exp(log_ratio).

    The gradient is 0 where the bound holds: r > 1 + high with A > 0, and r < 1 - low with A < 0. Without `dual` there
    is no upper bound on r with A < 0; with it the loss there is at most -dual A, and its gradient 0 for r > dual.

    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7; separate bounds Yu et al. 2025 (DAPO), arXiv:2503.14476,
    eq. 10; the dual clip Ye et al. 2020, arXiv:1912.09729.
    """
    ratio = held_exp(log_ratio)
    bounded = ratio.clamp(1 - low, 1 + high)
    loss = -torch.minimum(ratio * advantages, bounded * advantages)
    if dual is None:
        return loss
    return torch.where(advantages < 0, torch.minimum(loss, -dual * advantages), loss)


@dataclass(frozen=True)
class Clipped(PolicyLoss):
    """Clipped importance-weighted policy gradient (PPO, GRPO).

    Args:
        low: The ratio is held at 1 - low where the advantage is negative.
        high: The ratio is held at 1 + high where the advantage is positive; above `low` it leaves room for
            unlikely tokens to grow (DAPO).
        dual: The ratio is held at this where the advantage is negative, so that no single token dominates a step;
            above 1, usually 3. None has no such bound.
    """

    low: float = 0.2
    high: float = 0.2
    dual: float | None = None

    def __post_init__(self) -> None:
        check_bounds(self.low, self.high)
        if self.dual is not None and not self.dual > 1:
            raise InputError(
                "dual bounds the ratio itself where the advantage is negative; it must be above 1, usually 3 (got "
                f"{self.dual})"
            )

    def __call__(self, logprobs: Float[Tensor, "B T"], experience: Experience) -> tuple[Tensor, Stats]:
        """Token losses (B, T); statistics: the ratio and which bound holds."""
        log_ratio = logprobs - experience.old_logprobs
        advantages = experience.advantages
        loss = clipped_surrogate(log_ratio, advantages, low=self.low, high=self.high, dual=self.dual)
        return loss, clip_stats(log_ratio, advantages, self.low, self.high, self.dual)


@dataclass(frozen=True)
class SequenceClipped(PolicyLoss):
    """The clipped surrogate with one ratio per sequence: the geometric mean of those of its tokens (GSPO).

    The ratio is exp of the mean over the sequence's masked tokens of the log-ratio; each token has the loss of its
    sequence, and the gradient flows through the mean. With SequenceMean weighting this is the loss of the paper. The
    advantage is meant to be the same for all tokens of a sequence.

    The mean of many log-ratios lies close to 0, so that bounds are far narrower than those of tokens. ScaleRL
    (arXiv:2510.13786) needed 4e-3 to 5e-3 where the defaults, those of the paper, did not work.

    Source: Zheng et al. 2025, arXiv:2507.18071, eq. 5 and 7.

    Args:
        low: The ratio is held at 1 - low where the advantage is negative.
        high: The ratio is held at 1 + high where the advantage is positive.
    """

    low: float = 3e-4
    high: float = 4e-4

    def __post_init__(self) -> None:
        check_bounds(self.low, self.high)

    def __call__(self, logprobs: Float[Tensor, "B T"], experience: Experience) -> tuple[Tensor, Stats]:
        """Token losses (B, T); statistics: the ratio of the sequence and which bound holds."""
        log_ratio = sequence_mean(logprobs - experience.old_logprobs, experience)
        advantages = experience.advantages
        loss = clipped_surrogate(log_ratio, advantages, low=self.low, high=self.high)
        return loss, clip_stats(log_ratio, advantages, self.low, self.high, None)


def clip_stats(
    log_ratio: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    low: float,
    high: float,
    dual: float | None,
) -> Stats:
    """The ratio, and where a bound takes the gradient away; the dual clip counts as an upper one."""
    ratio = held_exp(log_ratio.detach())
    held_high = (ratio > 1 + high) & (advantages > 0)
    if dual is not None:
        held_high |= (ratio > dual) & (advantages < 0)
    return ratio_stats(ratio, (ratio < 1 - low) & (advantages < 0), held_high)


def ratio_stats(ratio: Tensor, held_low: Tensor, held_high: Tensor) -> Stats:
    """Statistics (B, T) by metric name."""
    return {
        "policy/ratio_mean": ratio,
        "policy/ratio_max": ratio,
        "policy/clipped_high_fraction": held_high.float(),
        "policy/clipped_low_fraction": held_low.float(),
    }


def check_bounds(low: float, high: float) -> None:
    """
    Raises:
        InputError: for bounds that do not enclose a ratio of 1.
    """
    if not 0 <= low <= 1 or not high >= 0:
        raise InputError(
            f"clip bounds must be 0 <= low <= 1 and high >= 0, both measured from a ratio of 1 (got low {low}, "
            f"high {high})"
        )
