"""Which policy a preference loss compares with: a fixed one, the policy of some time ago, or its moving average."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from lit_posttrain.errors import InputError
from lit_posttrain.networks import NetworkConfig


class ReferencePolicy(ABC):
    """When the policy's weights join those of the reference, and how much of them.

    `moves` says whether they ever do.
    """

    moves: ClassVar[bool] = True

    @abstractmethod
    def share_at_step(self, steps: int) -> float:
        """The share of the policy in the reference's next weights, after so many optimiser steps; 0 leaves them."""

    @abstractmethod
    def share_at_round(self, number: int) -> float:
        """The same when round `number`, from 0, begins."""


@dataclass(frozen=True)
class Fixed(ReferencePolicy):
    """One and the same policy for the whole run.

    By default the one that the run starts with: under adapters the network without them, otherwise a second copy,
    which is loaded only where the data brings no log-probs of it. It is not stored in checkpoints.

    Args:
        network: Another network, with the same vocabulary.
    """

    moves: ClassVar[bool] = False

    network: NetworkConfig | None = None

    def share_at_step(self, steps: int) -> float:
        """0."""
        return 0.0

    def share_at_round(self, number: int) -> float:
        """0."""
        return 0.0


@dataclass(frozen=True)
class ResetEvery(ReferencePolicy):
    """The policy as it was a while ago: every so many steps or rounds the reference becomes the policy.

    Source: Gorbatovski et al. 2024, arXiv:2404.09656 (hard update); by rounds: Xu et al. 2023, arXiv:2312.16682.

    Args:
        steps: Optimiser steps from one reset to the next.
        rounds: Rounds instead, of data that come in rounds.
    """

    steps: int = 0
    rounds: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.rounds) < 0 or (self.steps > 0) == (self.rounds > 0):
            raise InputError(
                f"a reference is reset every so many steps or rounds, one of both at least 1 (got steps {self.steps} "
                f"and rounds {self.rounds})"
            )

    def share_at_step(self, steps: int) -> float:
        """1 after every so many steps."""
        return float(self.steps > 0 and steps > 0 and steps % self.steps == 0)

    def share_at_round(self, number: int) -> float:
        """1 at every so many rounds."""
        return float(self.rounds > 0 and number > 0 and number % self.rounds == 0)


@dataclass(frozen=True)
class AsDrawn(ReferencePolicy):
    """The policy that drew the completions, by their log-probs as drawn: no network is asked.

    Only for data that come in rounds, drawn at temperature 1. It is what ResetEvery(rounds=1) is, but for the last
    bits in which a sampler differs from a whole forward; in a low precision these may matter.
    """

    moves: ClassVar[bool] = False

    def share_at_step(self, steps: int) -> float:
        """0."""
        return 0.0

    def share_at_round(self, number: int) -> float:
        """0: the log-probs come with the data."""
        return 0.0


@dataclass(frozen=True)
class MovingAverage(ReferencePolicy):
    """An average of the policy's weights over steps, in which older ones fade.

    Source: Gorbatovski et al. 2024, arXiv:2404.09656 (soft update, whose alpha is the rate).

    Args:
        rate: The share of the policy that joins the average after each optimiser step.
    """

    rate: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise InputError(
                f"the rate of a moving average is a share above 0 and below 1 (got {self.rate}); for a reference "
                "that is the policy of the step before, set ResetEvery(steps=1)"
            )

    def share_at_step(self, steps: int) -> float:
        """The rate, after every step."""
        return self.rate if steps > 0 else 0.0

    def share_at_round(self, number: int) -> float:
        """0."""
        return 0.0
