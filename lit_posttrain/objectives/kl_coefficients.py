"""The weight of a KL: constant, annealed, or adapted so that the KL stays near a target."""

from dataclasses import dataclass

from lit_posttrain.contracts import KLCoefficient
from lit_posttrain.errors import InputError


@dataclass(frozen=True)
class Constant(KLCoefficient):
    """The same weight throughout.

    Args:
        value: The weight; 0 only measures the KL.
    """

    value: float

    def __post_init__(self) -> None:
        if not self.value >= 0:
            raise InputError(
                f"the weight of a KL is {self.value}; below 0 it pushes the policy away from its reference: give 0 "
                "or more"
            )

    def first(self) -> float:
        """The weight."""
        return self.value

    def next(self, value: float, *, kl_nats: float, completions: int, step: int) -> float:
        """The weight."""
        return self.value


@dataclass(frozen=True)
class Annealed(KLCoefficient):
    """From one weight to another over the first optimiser steps, by equal factors, and constant from then on.

    A weight that is small from the start lets a policy lose what the reference would bring back: sequences that it
    never draws any more teach nothing.

    Args:
        start: The weight at step 0.
        end: The weight from step `steps` on.
        steps: Optimiser steps between them.
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        if not self.start > 0 or not self.end > 0 or self.steps < 1:
            raise InputError(
                "an annealed weight goes from start to end by equal factors, so both must be above 0, and steps at "
                f"least 1 (got start {self.start}, end {self.end}, steps {self.steps})"
            )

    def first(self) -> float:
        """The weight at step 0."""
        return self.start

    def next(self, value: float, *, kl_nats: float, completions: int, step: int) -> float:
        """start (end / start)^(step / steps)."""
        return self.start * (self.end / self.start) ** min(1.0, step / self.steps)


@dataclass(frozen=True)
class Adaptive(KLCoefficient):
    """A weight that grows while the KL of a completion is above its target, and shrinks while it is below.

    The proportional error KL / target - 1 is clipped to ±0.2, and the weight multiplied by 1 + error * completions /
    horizon. A rollout of more completions than the horizon counts as one of as many, so that the weight stays above 0.

    Source: Ziegler et al. 2019, arXiv:1909.08593, section 2.2.

    Args:
        start: The weight of the first rollout.
        target_nats: The KL of a whole completion to the reference that is aimed at.
        horizon: Completions over which the weight may change by a fifth.
    """

    start: float
    target_nats: float
    horizon: int = 10_000

    def __post_init__(self) -> None:
        if not self.start > 0 or not self.target_nats > 0 or self.horizon < 1:
            raise InputError(
                "an adaptive weight is multiplied, so start must be above 0, as target_nats and horizon must (got "
                f"start {self.start}, target_nats {self.target_nats}, horizon {self.horizon})"
            )

    def first(self) -> float:
        """The weight of the first rollout."""
        return self.start

    def next(self, value: float, *, kl_nats: float, completions: int, step: int) -> float:
        """value (1 + error min(1, completions / horizon))."""
        error = min(0.2, max(-0.2, kl_nats / self.target_nats - 1))
        return value * (1 + error * min(1.0, completions / self.horizon))
