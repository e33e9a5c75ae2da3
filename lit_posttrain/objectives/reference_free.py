"""Losses on pairs that need no reference; both are of averaged log-probs."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lit_posttrain.contracts import PairLogprobs
from lit_posttrain.errors import InputError
from lit_posttrain.objectives.pairs import PairLoss, check_positive, check_smoothing
from lit_posttrain.objectives.preference import bradley_terry

HIGHEST_LOGPROB = -1e-6
"""Averaged log-probs are held below this where odds are taken: at 0 they are infinite."""


@dataclass(frozen=True)
class SimPO(PairLoss):
    """-log sigmoid(beta (a_chosen - a_rejected) - gap), a = log pi averaged over the tokens of a completion.

    Source: Meng et al. 2024, arXiv:2405.14734, eq. 6.

    Args:
        beta: Scale of the averaged log-probs; some twenty times DPO's, since they are averages.
        gap: Margin that the chosen side is asked to win by (the paper's gamma, not divided by beta).
        smoothing: Share of pairs taken to be labelled the wrong way round.
    """

    needs_reference = False
    reduction = "averaged"

    beta: float = 2.0
    gap: float = 1.0
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_positive("SimPO", beta=self.beta)
        check_smoothing("SimPO", self.smoothing)
        if self.gap < 0:
            raise InputError(f"SimPO's gap is a margin of 0 or more (got {self.gap})")

    def losses(self, pairs: PairLogprobs) -> Tensor:
        """Of the margin less the gap."""
        chosen, rejected = self.rewards(pairs)
        return bradley_terry(chosen - rejected - self.gap, smoothing=self.smoothing)

    def rewards(self, pairs: PairLogprobs) -> tuple[Tensor, Tensor]:
        """beta times each averaged log-prob."""
        return self.beta * pairs.chosen, self.beta * pairs.rejected


def log_odds(logprob: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
    """log(p / (1 - p)) of p = exp(logprob), exact from very small to nearly certain; held at `HIGHEST_LOGPROB`."""
    held = logprob.clamp(max=HIGHEST_LOGPROB)
    return held - torch.log(-torch.expm1(held))


@dataclass(frozen=True)
class ORPO(PairLoss):
    """-a_chosen - beta log sigmoid(log odds(a_chosen) - log odds(a_rejected)), a = averaged log pi.

    Supervised training on the chosen side with a penalty on the odds of the rejected one. The gradient's weight that
    is logged is of the penalty alone; the rewards are beta times the log odds.

    Source: Hong et al. 2024, arXiv:2403.07691, eq. 6 and 7.

    Args:
        beta: Weight of the odds ratio (the paper's lambda).
    """

    needs_reference = False
    reduction = "averaged"

    beta: float = 0.1

    def __post_init__(self) -> None:
        check_positive("ORPO", beta=self.beta)

    def losses(self, pairs: PairLogprobs) -> Tensor:
        """Negative log-likelihood per token of the chosen side, and the penalty."""
        return -pairs.chosen + self.beta * bradley_terry(log_odds(pairs.chosen) - log_odds(pairs.rejected))

    def rewards(self, pairs: PairLogprobs) -> tuple[Tensor, Tensor]:
        """beta times the log odds of each side."""
        return self.beta * log_odds(pairs.chosen), self.beta * log_odds(pairs.rejected)
