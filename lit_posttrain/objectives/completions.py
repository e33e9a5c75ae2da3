"""Log-probs of completions from those of their tokens: summed, averaged, or desensitised to length."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lit_posttrain.errors import InputError
from lit_posttrain.objectives.masked import per_token, segment_sum
from lit_posttrain.objectives.pairs import Reduction


class CompletionLogprobs(ABC):
    """How the log-probs of a completion's tokens become one number.

    `reduction` says which of both the result is like, a sum or an average; `pairs_only` whether it needs another
    side.
    """

    reduction: ClassVar[Reduction]
    pairs_only: ClassVar[bool] = False

    @abstractmethod
    def factors(
        self, place: Int[Tensor, "B T"], tokens: Int[Tensor, "B T"], shared: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B T"]:
        """What each log-prob is multiplied with before all are added.

        Args:
            place: Which token of its completion each is, from 0.
            tokens: How many tokens its completion has.
            shared: Tokens of the shorter side of its pair; those of its completion where it has no pair.
        """


@dataclass(frozen=True)
class Summed(CompletionLogprobs):
    """The log-prob of the whole completion, as in DPO."""

    reduction: ClassVar[Reduction] = "summed"

    def factors(
        self, place: Int[Tensor, "B T"], tokens: Int[Tensor, "B T"], shared: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B T"]:
        """1 for every token."""
        return torch.ones_like(place, dtype=torch.float32)


@dataclass(frozen=True)
class Averaged(CompletionLogprobs):
    """The mean over the tokens of a completion, so that long ones do not count for more (SimPO, ORPO, LN-DPO)."""

    reduction: ClassVar[Reduction] = "averaged"

    def factors(
        self, place: Int[Tensor, "B T"], tokens: Int[Tensor, "B T"], shared: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B T"]:
        """1 / tokens."""
        return 1 / tokens.clamp(min=1).float()


@dataclass(frozen=True)
class Desensitised(CompletionLogprobs):
    """The sum in which tokens beyond the length of the pair's shorter side count less (LD-DPO).

    A likelihood term around the loss (WithLikelihood) sees the same factors.

    Source: Liu et al. 2024, arXiv:2409.06411, eq. 9.

    Args:
        alpha: Factor on the tokens beyond; 1 is DPO, 0 leaves them out.
    """

    reduction: ClassVar[Reduction] = "summed"
    pairs_only: ClassVar[bool] = True

    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise InputError(
                f"alpha is a factor in [0, 1] on tokens beyond the shorter side (got {self.alpha})"
            )

    def factors(
        self, place: Int[Tensor, "B T"], tokens: Int[Tensor, "B T"], shared: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B T"]:
        """1 up to the length of the shorter side, alpha beyond."""
        return torch.where(place < shared, 1.0, self.alpha)


def completion_tokens(mask: Bool[Tensor, "B T"], segments: Int[Tensor, "B T"], sequences: int) -> Tensor:
    """How many tokens of each sequence are under the mask, (S,) int64."""
    return segment_sum(mask.long(), segments, sequences)


def token_factors(
    how: CompletionLogprobs,
    mask: Bool[Tensor, "B T"],
    segments: Int[Tensor, "B T"],
    tokens: Int[Tensor, " S"],
    shared: Int[Tensor, " S"],
) -> Float[Tensor, "B T"]:
    """The factor on each token's log-prob, 0 outside the mask; a segment lies within one row.

    Args:
        how: Says what they are.
        mask: Of the completions.
        segments: Which sequence each token belongs to, 1..S; 0 is padding.
        tokens: Under the mask, of each sequence.
        shared: Tokens of the shorter side of each sequence's pair.
    """
    before = mask.long().cumsum(dim=1) - mask.long()  # tokens under the mask before this one in its row
    first = torch.full((len(tokens) + 1,), mask.shape[1], dtype=torch.int64, device=mask.device)
    first = first.scatter_reduce(0, segments.reshape(-1), before.reshape(-1), "amin")
    place = before - first[segments]
    return how.factors(place, per_token(tokens, segments), per_token(shared, segments)) * mask
