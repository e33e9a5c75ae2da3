"""What may be added to a loss of pairs, or multiplied with it."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lit_posttrain.contracts import PairLogprobs, PreferenceLoss, Stats
from lit_posttrain.errors import InputError
from lit_posttrain.objectives.pairs import PairLoss, Reduction, check_positive
from lit_posttrain.objectives.preference import Sigmoid


@dataclass(frozen=True)
class WithLikelihood(PreferenceLoss):
    """A loss plus weight times the negative log-likelihood per token of the chosen side (RPO).

    Keeps the chosen side's probability from falling along with the rejected one's. The statistics are those of the
    loss, with `preference/likelihood_nats`, the added term without its weight.

    Source: Pang et al. 2024, arXiv:2404.19733, eq. 1, with the average over the completion's tokens.

    Args:
        loss: On pairs.
        weight: Of the likelihood.
        reduction: What the method does to log-probs over tokens; a sum is divided by its tokens here.
    """

    loss: PreferenceLoss = field(default_factory=Sigmoid)
    weight: float = 1.0
    reduction: Reduction = "summed"

    def __post_init__(self) -> None:
        check_positive("WithLikelihood", weight=self.weight)
        object.__setattr__(self, "needs_reference", self.loss.needs_reference)
        check_reduction(self.loss, self.reduction)

    def __call__(self, pairs: PairLogprobs) -> tuple[Tensor, Stats]:
        """The loss's, with the term."""
        losses, stats = self.loss(pairs)
        likelihood = -per_token(pairs.chosen, pairs.chosen_tokens, self.reduction)
        return losses + self.weight * likelihood, stats | {"preference/likelihood_nats": likelihood.detach()}


@dataclass(frozen=True)
class PolicyWeighted(PreferenceLoss):
    """A loss times the policy's probability per token of both sides, which has no gradient (WPO).

    Makes pairs that another policy wrote count as if this one had written them. The paper also divides by the
    probability that the policy gives to its own sample (its weight alignment), so that a pair of its own has a weight
    near 1; that needs sums over the vocabulary, which pairs do not carry.

    Source: Zhou et al. 2024, arXiv:2406.11827, eq. 2, without weight alignment.

    Args:
        loss: On pairs.
        reduction: What the method does to log-probs over tokens; a sum is divided by its tokens here.
    """

    loss: PreferenceLoss = field(default_factory=Sigmoid)
    reduction: Reduction = "summed"

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs_reference", self.loss.needs_reference)
        check_reduction(self.loss, self.reduction)

    def __call__(self, pairs: PairLogprobs) -> tuple[Tensor, Stats]:
        """The loss's, weighted; the gradient's weight as well."""
        losses, stats = self.loss(pairs)
        weight = pair_weight(
            per_token(pairs.chosen, pairs.chosen_tokens, self.reduction),
            per_token(pairs.rejected, pairs.rejected_tokens, self.reduction),
        )
        slope = stats["preference/gradient_weight"] * weight
        return losses * weight, stats | {
            "preference/gradient_weight": slope,
            "preference/pair_weight": weight,
        }


def pair_weight(chosen: Tensor, rejected: Tensor) -> Tensor:
    """exp(a_chosen + a_rejected) of log-probs per token (P,), without gradient."""
    return torch.exp(chosen.detach() + rejected.detach())


def per_token(logprobs: Tensor, tokens: Tensor, reduction: Reduction) -> Tensor:
    """Log-probs averaged over tokens (P,), in nats."""
    return logprobs if reduction == "averaged" else logprobs / tokens.clamp(min=1)


def check_reduction(loss: PreferenceLoss, reduction: Reduction) -> None:
    """
    Raises:
        InputError: if the loss inside is meant for other log-probs.
    """
    meant = loss.reduction if isinstance(loss, PairLoss | WithLikelihood | PolicyWeighted) else None
    if meant not in (None, reduction):
        raise InputError(
            f"{type(loss).__name__} takes {meant} log-probs, and the term around it is told that they are "
            f"{reduction}; set reduction: {meant} there too"
        )
