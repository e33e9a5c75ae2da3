"""Bradley-Terry, and what follows from it: the loss of reward models on scores, DPO's on log-ratios."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from lit_posttrain.contracts import PairLogprobs, RewardLoss, Stats
from lit_posttrain.errors import InputError
from lit_posttrain.objectives.divergences import Divergence, ReverseKL
from lit_posttrain.objectives.pairs import PairLoss, check_positive, check_smoothing, log_ratios, reward_stats


def bradley_terry(margin: Float[Tensor, " P"], *, smoothing: float = 0.0) -> Float[Tensor, " P"]:
    """-(1 - e) log sigmoid(m) - e log sigmoid(-m): the negative log-likelihood that the chosen side wins by margin m.

    ln 2 at m = 0. The derivative by m is e - sigmoid(-m). With e > 0 it has its minimum at log((1 - e) / e).

    Source: Bradley and Terry 1952, Biometrika 39; smoothing: Mitchell 2023, "A note on DPO with noisy preferences",
    https://ericmitchell.ai/cdpo.pdf.
    """
    return -(1 - smoothing) * logsigmoid(margin) - smoothing * logsigmoid(-margin)


@dataclass(frozen=True)
class BradleyTerry(RewardLoss):
    """The negative log-likelihood of the preferences under scores: -log sigmoid(s_chosen - s_rejected - margin).

    `preference/gradient_weight` is the share of the pair that is still to learn, sigmoid(margin - difference) less
    the smoothing; the term of centring is left out of it.

    Source: Ouyang et al. 2022, arXiv:2203.02155, eq. 1; margin: Touvron et al. 2023 (Llama 2), arXiv:2307.09288,
    eq. 2; centring: Eisenstein et al. 2023, arXiv:2312.09244.

    Args:
        use_margin: The difference of the scores is asked to exceed the margin that the data gives.
        centring: Weight of (s_chosen + s_rejected)^2, which holds the scores around 0.
        smoothing: Share of pairs taken to be labelled the wrong way round.
    """

    use_margin: bool = True
    centring: float = 0.0
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_smoothing("Bradley-Terry", self.smoothing)
        if self.centring < 0:
            raise InputError(f"centring is a weight of 0 or more (got {self.centring})")

    def __call__(
        self, chosen: Float[Tensor, " P"], rejected: Float[Tensor, " P"], margin: Float[Tensor, " P"]
    ) -> tuple[Tensor, Stats]:
        """Losses (P,); statistics: both scores, their difference, accuracy, the gradient's weight."""
        excess = chosen - rejected - margin if self.use_margin else chosen - rejected
        loss = bradley_terry(excess, smoothing=self.smoothing)
        if self.centring:
            loss = loss + self.centring * (chosen + rejected).square()
        weight = torch.sigmoid(-excess.detach()) - self.smoothing
        return loss, reward_stats(chosen, rejected) | {"preference/gradient_weight": weight}


@dataclass(frozen=True)
class Sigmoid(PairLoss):
    """DPO: Bradley-Terry on implicit rewards, -log sigmoid(beta (d_chosen - d_rejected)), d = log pi - log pi_ref.

    With averaged log-probs it is length-normalised DPO. Smoothed, it is conservative DPO, whose margin stops at
    log((1 - e) / e). With another divergence d becomes f'(pi / pi_ref), up to a constant.

    Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 7; conservative: Mitchell 2023,
    https://ericmitchell.ai/cdpo.pdf; divergences: Wang et al. 2023, arXiv:2309.16240, theorem 1.

    Args:
        beta: Strength of the tie to the reference; the optimum is proportional to pi_ref exp(reward / beta).
        smoothing: Share of pairs taken to be labelled the wrong way round.
        divergence: What ties the policy to the reference.
    """

    beta: float = 0.1
    smoothing: float = 0.0
    divergence: Divergence = field(default_factory=ReverseKL)

    def __post_init__(self) -> None:
        check_positive("DPO", beta=self.beta)
        check_smoothing("DPO", self.smoothing)

    def losses(self, pairs: PairLogprobs) -> Tensor:
        """Of the margin of the implicit rewards."""
        chosen, rejected = self.rewards(pairs)
        return bradley_terry(chosen - rejected, smoothing=self.smoothing)

    def rewards(self, pairs: PairLogprobs) -> tuple[Tensor, Tensor]:
        """beta times the divergence's score of each log-ratio."""
        chosen, rejected = (self.divergence.score(ratio) for ratio in log_ratios(pairs))
        return self.beta * chosen, self.beta * rejected
