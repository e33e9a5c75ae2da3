"""Losses of a policy on single completions that are wanted or not."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lit_posttrain.contracts import Stats, UnpairedLoss
from lit_posttrain.objectives.pairs import check_positive


def prospect(
    excess: Float[Tensor, " S"], desirable: Bool[Tensor, " S"], wanted: float, unwanted: float
) -> tuple[Tensor, Stats]:
    """weight (1 - sigmoid(±excess)): the loss of a reward beyond a point of reference, + where it is wanted.

    Statistics: the excess on the right side as margin, accuracy with a tie as half, and minus the derivative by the
    signed log-prob, divided by beta.
    """
    signed = torch.where(desirable, excess, -excess)
    weight = torch.where(desirable, wanted, unwanted).to(excess.dtype)
    held = signed.detach()
    stats = {
        "preference/margin": held,
        "preference/accuracy": (torch.sign(held) + 1) / 2,
        "preference/gradient_weight": weight * torch.sigmoid(held) * torch.sigmoid(-held),
    }
    return weight * torch.sigmoid(-signed), stats


@dataclass(frozen=True)
class KTO(UnpairedLoss):
    """weight (1 - sigmoid(±(beta d - beta KL))), d = log pi - log pi_ref, + for wanted completions.

    The KL of policy to reference, estimated from completions behind prompts that they do not belong to, is the point
    that gains and losses are felt from; it has no gradient, and an estimate below 0 counts as 0. Statistics: the
    implicit reward, how far it lies on the right side of that point (margin), accuracy, the gradient's weight.

    Source: Ethayarajh et al. 2024, arXiv:2402.01306, eq. 7 and 8.

    Args:
        beta: Strength of the tie to the reference.
        desirable_weight: Of wanted completions.
        undesirable_weight: Of others; where one kind is rarer, weight times count should be about the same.
    """

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    def __post_init__(self) -> None:
        check_positive(
            "KTO",
            beta=self.beta,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
        )

    def __call__(
        self,
        logprobs: Float[Tensor, " S"],
        reference: Float[Tensor, " S"],
        desirable: Bool[Tensor, " S"],
        kl: Float[Tensor, ""],
    ) -> tuple[Tensor, Stats]:
        """Losses and statistics (S,) from summed log-probs."""
        reward = self.beta * (logprobs - reference)
        point = self.beta * kl.detach().clamp(min=0)
        losses, stats = prospect(reward - point, desirable, self.desirable_weight, self.undesirable_weight)
        return losses, finished(stats, reward, self.beta)


@dataclass(frozen=True)
class APOZeroUnpaired(UnpairedLoss):
    """1 - sigmoid(±beta d), d = log pi - log pi_ref: APO-zero for single completions, KTO with its point at 0.

    Source: D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7, each side apart.

    Args:
        beta: Strength of the tie to the reference.
        desirable_weight: Of wanted completions.
        undesirable_weight: Of others.
    """

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    def __post_init__(self) -> None:
        check_positive(
            "APO",
            beta=self.beta,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
        )

    def __call__(
        self,
        logprobs: Float[Tensor, " S"],
        reference: Float[Tensor, " S"],
        desirable: Bool[Tensor, " S"],
        kl: Float[Tensor, ""],
    ) -> tuple[Tensor, Stats]:
        """Losses and statistics (S,) from summed log-probs; the KL is not used."""
        reward = self.beta * (logprobs - reference)
        losses, stats = prospect(reward, desirable, self.desirable_weight, self.undesirable_weight)
        return losses, finished(stats, reward, self.beta)


def finished(stats: Stats, reward: Tensor, beta: float) -> Stats:
    """The statistics with the implicit reward, and the gradient's weight by the log-prob."""
    weight = beta * stats["preference/gradient_weight"]
    return stats | {"preference/reward": reward.detach(), "preference/gradient_weight": weight}
