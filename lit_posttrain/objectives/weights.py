"""How token losses become one number: four ways to fill the weights of an optimiser step.

Each gives the weight of *every* token of a sequence, from the lengths of all sequences of the step, over all
ranks and micro-batches. Sequences without tokens get 0, and a step without any token gets all zeros.

Where tokens are scaled, a sequence's length is the sum of its tokens' scales, and a token's weight is what is
given here times its scale: the weights of a step still sum to 1.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from lit_posttrain.contracts import TokenWeights


def _inverse(counts: Tensor) -> Tensor:
    """1 / count, and 0 where the count is 0."""
    counts = counts.double()
    return torch.where(counts > 0, 1 / torch.where(counts > 0, counts, 1.0), 0.0)


@dataclass(frozen=True)
class TokenMean(TokenWeights):
    """Every token counts alike: 1 / (tokens of the step). DAPO, arXiv:2503.14476, eq. 12; and language modelling."""

    def __call__(self, lengths: Real[Tensor, " S"], group: Int[Tensor, " S"]) -> Float[Tensor, " S"]:
        """Weights (S,), which sum to 1 over the tokens of the step."""
        return ((lengths > 0) * _inverse(lengths.sum())).float()


@dataclass(frozen=True)
class SequenceMean(TokenWeights):
    """Every sequence counts alike, its tokens share its part. GRPO, arXiv:2402.03300, eq. 3."""

    def __call__(self, lengths: Real[Tensor, " S"], group: Int[Tensor, " S"]) -> Float[Tensor, " S"]:
        """Weights (S,), which sum to 1 over the tokens of the step."""
        return (_inverse(lengths) * _inverse((lengths > 0).sum())).float()


@dataclass(frozen=True)
class PromptMean(TokenWeights):
    """Every problem counts alike, the tokens of all its completions share its part.

    Source: ScaleRL, Khatri et al. 2025, arXiv:2510.13786, section 3.
    """

    def __call__(self, lengths: Real[Tensor, " S"], group: Int[Tensor, " S"]) -> Float[Tensor, " S"]:
        """Weights (S,), which sum to 1 over the tokens of the step."""
        _, member = torch.unique(group, return_inverse=True)
        groups = int(member.max()) + 1 if len(member) else 0
        tokens = lengths.double().new_zeros(groups).index_add(0, member, lengths.double())
        return ((lengths > 0) * _inverse(tokens)[member] * _inverse((tokens > 0).sum())).float()


@dataclass(frozen=True)
class ConstantLength(TokenWeights):
    """Every token weighs 1 / (sequences x a constant length). Dr. GRPO, arXiv:2503.20783, section 3.2.

    The one weighting that sums to less than 1: the sum is the mean length in units of `length_tokens`.

    Args:
        length_tokens: The constant, usually the generation limit.
    """

    length_tokens: int

    def __post_init__(self) -> None:
        if self.length_tokens < 1:
            raise ValueError(f"length_tokens must be at least 1 (got {self.length_tokens})")

    def __call__(self, lengths: Real[Tensor, " S"], group: Int[Tensor, " S"]) -> Float[Tensor, " S"]:
        """Weights (S,)."""
        return ((lengths > 0) * _inverse((lengths > 0).sum()) / self.length_tokens).float()
