"""Losses of a reward model on completions that have a grade each, alone or in groups of one prompt."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from lit_posttrain.contracts import RankingLoss, Stats
from lit_posttrain.errors import InputError
from lit_posttrain.objectives.preference import bradley_terry


@dataclass(frozen=True)
class Regression(RankingLoss):
    """(score - target)^2: the score is the grade itself. Statistics: |score - target|.

    Source: Wang et al. 2024 (HelpSteer2), arXiv:2406.08673.
    """

    def __call__(
        self, scores: Float[Tensor, " S"], targets: Float[Tensor, " S"], group: Int[Tensor, " S"]
    ) -> tuple[Tensor, Stats]:
        """Losses (S,)."""
        gap = scores - targets
        return gap.square(), {"preference/score_error": gap.detach().abs()}


@dataclass(frozen=True)
class BinaryRegression(RankingLoss):
    """Cross-entropy of sigmoid(score) with targets in [0, 1]: the score is the log odds of being right.

    Statistics: |sigmoid(score) - target|. A soft target is a chance of being right.

    Source: Cobbe et al. 2021, arXiv:2110.14168 (a verifier of whole solutions).
    """

    def __call__(
        self, scores: Float[Tensor, " S"], targets: Float[Tensor, " S"], group: Int[Tensor, " S"]
    ) -> tuple[Tensor, Stats]:
        """Losses (S,).

        Raises:
            InputError: if a target is no share.
        """
        if not bool(((targets >= 0) & (targets <= 1)).all()):
            raise InputError(
                f"binary cross-entropy takes targets from 0 to 1 (got {float(targets.min())} to "
                f"{float(targets.max())}); scale them, or use Regression"
            )
        losses = binary_cross_entropy_with_logits(scores, targets, reduction="none")
        return losses, {"preference/score_error": (torch.sigmoid(scores.detach()) - targets).abs()}


def beaten(targets: Float[Tensor, " S"], group: Int[Tensor, " S"]) -> Bool[Tensor, "S S"]:
    """Whether i has a higher target than j of the same group, at [i, j]."""
    return (group[:, None] == group[None, :]) & (targets[:, None] > targets[None, :])


@dataclass(frozen=True)
class PlackettLuce(RankingLoss):
    """The negative log-likelihood of a whole ranking: each is picked in turn out of itself and all below it.

    The loss of sequence i is log sum exp over {i and those below it} - s_i; their sum over a group is the loss of its
    ranking, which for two is Bradley-Terry's. Equal targets do not compete, and the lowest has loss 0.

    Source: Plackett 1975, Applied Statistics 24; Zhu et al. 2023, arXiv:2301.11270 (K-wise comparisons).
    """

    def __call__(
        self, scores: Float[Tensor, " S"], targets: Float[Tensor, " S"], group: Int[Tensor, " S"]
    ) -> tuple[Tensor, Stats]:
        """Losses (S,); whole groups must be in the batch."""
        rivals = beaten(targets, group) | torch.eye(len(scores), dtype=torch.bool, device=scores.device)
        rivalry = torch.where(rivals, scores[None, :], torch.full_like(scores, -torch.inf)[None, :])
        return torch.logsumexp(rivalry, dim=1) - scores, {}


@dataclass(frozen=True)
class PairwiseWithinGroup(RankingLoss):
    """Bradley-Terry on all pairs of a group with different targets; every group counts alike, however many it has.

    The loss of a sequence is half the sum over its pairs, times the group's size over its number of pairs, so that
    with equal shares a group's losses average to the mean over its pairs. Without any pair it is 0.

    Source: Ouyang et al. 2022, arXiv:2203.02155, eq. 1.
    """

    def __call__(
        self, scores: Float[Tensor, " S"], targets: Float[Tensor, " S"], group: Int[Tensor, " S"]
    ) -> tuple[Tensor, Stats]:
        """Losses (S,); whole groups must be in the batch."""
        wins = beaten(targets, group)
        losses = bradley_terry((scores[:, None] - scores[None, :]).reshape(-1)).reshape(wins.shape)
        losses = torch.where(wins, losses, torch.zeros_like(losses))
        own = losses.sum(dim=1) + losses.sum(dim=0)
        same = (group[:, None] == group[None, :]).to(scores.dtype)
        pairs = (same @ wins.sum(dim=1).to(scores.dtype)).clamp(min=1)
        return own / 2 * same.sum(dim=1) / pairs, {}
