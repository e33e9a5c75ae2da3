"""Losses of a policy whose gradient reaches every token: the ratio is a factor, or not there at all."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lit_posttrain.batches import Experience
from lit_posttrain.contracts import PolicyLoss, Stats
from lit_posttrain.errors import InputError
from lit_posttrain.objectives.policy import ratio_stats
from lit_posttrain.objectives.ratios import held_exp


def truncated_gradient(
    logprobs: Float[Tensor, "B T"],
    old: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    *,
    floor: float,
    cap: float,
) -> Float[Tensor, "B T"]:
    """-stopgrad(clip(r, floor, cap)) A log pi, with r = pi / pi_old: no token loses its gradient, it is only bounded.

    The value is no surrogate of the return: it depends on the size of log-probs. Read the gradient alone.

    Source: MiniMax-M1 2025 (CISPO), arXiv:2506.13585, eq. 4.
    """
    factor = held_exp((logprobs - old).detach()).clamp(floor, cap)
    return -factor * advantages * logprobs


@dataclass(frozen=True)
class CISPO(PolicyLoss):
    """Policy gradient with truncated importance weights: tokens far off are bounded, none is dropped.

    `cap` and `floor` bound the *ratio itself*. They are not distances from 1 as the bounds of Clipped are: a paper's
    epsilon of 4 is a cap of 5 if it stands for 1 + epsilon. The bound holds whatever the sign of the advantage.

    Source: MiniMax-M1 2025, arXiv:2506.13585, eq. 4; without a floor and with caps of 4, 5 and 8 alike: Khatri
    et al. 2025 (ScaleRL), arXiv:2510.13786, section 3.

    Args:
        cap: The largest weight of a token, 1 or more.
        floor: The smallest weight of a token, from 0 to 1.
    """

    cap: float = 5.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.floor <= 1 <= self.cap:
            raise InputError(
                "CISPO bounds the ratio itself, not its distance from 1: it needs 0 <= floor <= 1 <= cap (got floor "
                f"{self.floor}, cap {self.cap}); cap 5 is usual"
            )

    def __call__(self, logprobs: Float[Tensor, "B T"], experience: Experience) -> tuple[Tensor, Stats]:
        """Token losses (B, T); statistics: the ratio before it is bounded, and which bound holds."""
        old, advantages = experience.old_logprobs, experience.advantages
        loss = truncated_gradient(logprobs, old, advantages, floor=self.floor, cap=self.cap)
        ratio = held_exp((logprobs - old).detach())
        return loss, ratio_stats(ratio, ratio < self.floor, ratio > self.cap)


@dataclass(frozen=True)
class Reinforce(PolicyLoss):
    """-A log pi: the policy gradient itself, without a ratio and without a bound.

    Right only on what the present policy drew. With several steps or passes per rollout, or with stale rollouts, it is
    biased towards what the older policy liked; use CISPO or Clipped there. The statistics tell how far it has gone.

    Source: Williams 1992; for language models Ahmadian et al. 2024, arXiv:2402.14740, section 2.
    """

    def __call__(self, logprobs: Float[Tensor, "B T"], experience: Experience) -> tuple[Tensor, Stats]:
        """Token losses (B, T); statistics: the ratio, which nothing holds."""
        ratio = held_exp((logprobs - experience.old_logprobs).detach())
        nothing = torch.zeros_like(ratio)
        return -experience.advantages * logprobs, ratio_stats(ratio, nothing, nothing)
