"""Corrections of the policy loss where the sampling engine and the trainer give the same token other log-probs.

The ratio is exp(old - sampled), the trainer's log-prob at collection against the engine's: weights are the same, only
kernels, precision or a stale copy of the weights differ. Over a sequence the ratio is the geometric mean of those of
its tokens. The product would be the exact importance weight, and is of no use: a mean gap of 0.012 nats per token
makes it 3.3 at 100 tokens and 1.6e5 at 1,000.
"""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lit_posttrain.batches import Experience
from lit_posttrain.contracts import Correction, Stats
from lit_posttrain.errors import InputError
from lit_posttrain.objectives.ratios import Scope, held_exp, sequence_mean


def engine_ratio(experience: Experience, over: Scope) -> Float[Tensor, "B T"]:
    """exp(old - sampled) of each token, or of its sequence by the geometric mean; 1 outside the mask."""
    log_ratio = (experience.old_logprobs - experience.sampled_logprobs).detach()
    if over == "sequence":
        log_ratio = sequence_mean(log_ratio, experience)
    return held_exp(torch.where(experience.mask, log_ratio, 0.0))


class RatioCorrection(Correction):
    """A factor that is one formula of the ratio of trainer to engine."""

    over: Scope

    @abstractmethod
    def bounded(self, ratio: Float[Tensor, "B T"]) -> tuple[Tensor, Tensor]:
        """The factors (B, T), and where they are not the ratio (B, T) bool."""

    def __call__(self, experience: Experience) -> tuple[Tensor, Stats]:
        """Factors (B, T), 1 outside the mask; statistics: the factor, the raw ratio's extremes, what was cut."""
        ratio = engine_ratio(experience, self.over)
        factors, cut = self.bounded(ratio)
        outside = ~experience.mask
        return factors.masked_fill(outside, 1.0), {
            "policy/correction_mean": factors.masked_fill(outside, 1.0),
            "policy/correction_min": ratio,
            "policy/correction_max": ratio,
            "policy/correction_cut_fraction": (cut & experience.mask).float(),
        }


@dataclass(frozen=True)
class TruncatedImportance(RatioCorrection):
    """The factor min(ratio, cap): tokens that the engine drew too often count less, rare ones at most `cap` times.

    Source: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training".

    Args:
        cap: The largest factor.
        over: Of each token, or one for the whole sequence, by the geometric mean of its tokens.
    """

    cap: float = 2.0
    over: Scope = "token"

    def __post_init__(self) -> None:
        if not self.cap >= 1:
            raise InputError(
                f"cap is the largest factor, and 1 is agreement; it must be 1 or more (got {self.cap})"
            )

    def bounded(self, ratio: Float[Tensor, "B T"]) -> tuple[Tensor, Tensor]:
        """min(ratio, cap)."""
        return ratio.clamp(max=self.cap), ratio > self.cap


@dataclass(frozen=True)
class MaskedImportance(RatioCorrection):
    """The ratio as the factor where it lies within bounds, and 0 beyond: what disagrees too much is left out.

    What is left out keeps its weight in the step, so that the others do not count for more.

    Source: Ling team 2025, "Every step evolves", arXiv:2510.18855 (IcePop), which bounds tokens from 0.5 to 5.

    Args:
        low: Ratios below are left out.
        high: Ratios above are left out.
        over: Of each token, or one for the whole sequence, by the geometric mean of its tokens, so that a sequence is
            kept or left out as a whole.
    """

    low: float = 0.5
    high: float = 2.0
    over: Scope = "token"

    def __post_init__(self) -> None:
        if not 0 <= self.low <= 1 <= self.high:
            raise InputError(
                f"the bounds must be 0 <= low <= 1 <= high, since 1 is agreement (got low {self.low}, high {self.high})"
            )

    def bounded(self, ratio: Float[Tensor, "B T"]) -> tuple[Tensor, Tensor]:
        """The ratio within the bounds, else 0."""
        beyond = (ratio < self.low) | (ratio > self.high)
        return ratio.masked_fill(beyond, 0.0), beyond
