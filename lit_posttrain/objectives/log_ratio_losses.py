"""Losses on the log-ratios of pairs to a reference, beside DPO's own: other shapes than log sigmoid."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import relu

from lit_posttrain.contracts import PairLogprobs
from lit_posttrain.objectives.pairs import PairLoss, check_positive, check_smoothing, log_ratios
from lit_posttrain.objectives.preference import bradley_terry


@dataclass(frozen=True)
class LogRatioLoss(PairLoss):
    """A loss whose implicit reward is beta (log pi - log pi_ref).

    Args:
        beta: Strength of the tie to the reference.
    """

    beta: float = 0.1

    def __post_init__(self) -> None:
        check_positive(type(self).__name__, beta=self.beta)

    def rewards(self, pairs: PairLogprobs) -> tuple[Tensor, Tensor]:
        """beta times each log-ratio."""
        chosen, rejected = log_ratios(pairs)
        return self.beta * chosen, self.beta * rejected

    def margin(self, pairs: PairLogprobs) -> Tensor:
        """The difference of both (P,)."""
        chosen, rejected = self.rewards(pairs)
        return chosen - rejected


@dataclass(frozen=True)
class IPO(LogRatioLoss):
    """(d_chosen - d_rejected - 1 / (2 beta))^2, d = log pi - log pi_ref: a margin to reach, not to push for ever.

    The authors mean averaged log-probs (TRL averages always): then the target is one per token.

    Source: Azar et al. 2023, arXiv:2310.12036, eq. 17, where beta is called tau.

    Args:
        beta: The difference of the log-ratios is drawn to 1 / (2 beta).
    """

    def losses(self, pairs: PairLogprobs) -> Tensor:
        """Of the difference of the log-ratios."""
        chosen, rejected = log_ratios(pairs)
        return (chosen - rejected - 1 / (2 * self.beta)).square()


@dataclass(frozen=True)
class Hinge(LogRatioLoss):
    """max(0, 1 - beta (d_chosen - d_rejected)): pairs with a margin of 1 teach nothing more.

    Source: Zhao et al. 2023 (SLiC-HF), arXiv:2305.10425, in the form on log-ratios of Liu et al. 2023 (RSO),
    arXiv:2309.06657.

    Args:
        beta: 1 / beta is the difference of the log-ratios that is enough.
    """

    def losses(self, pairs: PairLogprobs) -> Tensor:
        """Of the margin."""
        return relu(1 - self.margin(pairs))


@dataclass(frozen=True)
class Robust(LogRatioLoss):
    """((1 - e) l(m) - e l(-m)) / (1 - 2e), l = -log sigmoid: its mean over labels flipped with chance e is DPO's loss.

    Falls without bound as the margin grows, unlike conservative DPO, which stops at a margin.

    Source: Chowdhury et al. 2024, arXiv:2403.00409.

    Args:
        beta: Strength of the tie to the reference.
        smoothing: The share e of pairs that are labelled the wrong way round.
    """

    smoothing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_smoothing("robust DPO", self.smoothing)

    def losses(self, pairs: PairLogprobs) -> Tensor:
        """Of the margin."""
        margin, e = self.margin(pairs), self.smoothing
        return ((1 - e) * bradley_terry(margin) - e * bradley_terry(-margin)) / (1 - 2 * e)


@dataclass(frozen=True)
class APOZero(LogRatioLoss):
    """1 - sigmoid(beta d_chosen) + sigmoid(beta d_rejected): the chosen side up, the rejected down.

    For chosen sides that are better than what the policy writes.

    Source: D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7.

    Args:
        beta: Strength of the tie to the reference.
    """

    def losses(self, pairs: PairLogprobs) -> Tensor:
        """Of both implicit rewards apart."""
        chosen, rejected = self.rewards(pairs)
        return torch.sigmoid(-chosen) + torch.sigmoid(rejected)


@dataclass(frozen=True)
class APODown(LogRatioLoss):
    """sigmoid(beta d_chosen) + 1 - sigmoid(beta (d_chosen - d_rejected)): both down, the rejected side further.

    For chosen sides that are worse than what the policy writes.

    Source: D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 8.

    Args:
        beta: Strength of the tie to the reference.
    """

    def losses(self, pairs: PairLogprobs) -> Tensor:
        """Of the chosen side's implicit reward, and of the margin."""
        chosen, rejected = self.rewards(pairs)
        return torch.sigmoid(chosen) + torch.sigmoid(rejected - chosen)
