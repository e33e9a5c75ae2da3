"""Surrogate losses of a policy, per token."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lit_posttrain.batches import Experience
from lit_posttrain.contracts import PolicyLoss, Stats
from lit_posttrain.objectives.kl import MAX_LOG_RATIO


def clipped_surrogate(
    log_ratio: Float[Tensor, "B T"], advantages: Float[Tensor, "B T"], *, low: float, high: float
) -> Float[Tensor, "B T"]:
    """The pessimistic bound -min(r A, clip(r, 1 - low, 1 + high) A) with r = exp(log_ratio).

    The gradient is 0 where the bound holds: r > 1 + high with A > 0, and r < 1 - low with A < 0. There is no
    upper bound on r with A < 0.

    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7; separate bounds Yu et al. 2025 (DAPO),
    arXiv:2503.14476, eq. 10.
    """
    ratio = torch.exp(log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))
    bounded = ratio.clamp(1 - low, 1 + high)
    return -torch.minimum(ratio * advantages, bounded * advantages)


@dataclass(frozen=True)
class Clipped(PolicyLoss):
    """Clipped importance-weighted policy gradient (PPO, GRPO).

    Args:
        low: The ratio is held at 1 - low where the advantage is negative.
        high: The ratio is held at 1 + high where the advantage is positive; above `low` it leaves room for
            unlikely tokens to grow (DAPO).
    """

    low: float = 0.2
    high: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.low <= 1 or self.high < 0:
            raise ValueError(
                f"clip bounds must be 0 <= low <= 1 and high >= 0 (got low {self.low}, high {self.high})"
            )

    def __call__(self, logprobs: Float[Tensor, "B T"], experience: Experience) -> tuple[Tensor, Stats]:
        """Token losses (B, T); statistics: the ratio and which bound holds."""
        log_ratio = logprobs - experience.old_logprobs
        loss = clipped_surrogate(log_ratio, experience.advantages, low=self.low, high=self.high)
        ratio = torch.exp(log_ratio.detach().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))
        stats = {
            "policy/ratio_mean": ratio,
            "policy/ratio_max": ratio,
            "policy/clipped_high_fraction": ((ratio > 1 + self.high) & (experience.advantages > 0)).float(),
            "policy/clipped_low_fraction": ((ratio < 1 - self.low) & (experience.advantages < 0)).float(),
        }
        return loss, stats
