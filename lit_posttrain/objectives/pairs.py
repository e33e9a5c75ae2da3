"""What the losses of a policy on pairs have in common: the check of their input and what they report."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lit_posttrain.contracts import PairLogprobs, PreferenceLoss, Stats
from lit_posttrain.errors import InputError

Reduction = Literal["summed", "averaged"]
"""How a method reduces the log-probs of a completion's tokens to one number."""


class PairLoss(PreferenceLoss):
    """A loss that is one formula of the log-probs of both sides.

    `reduction` says which log-probs it is meant for; None where both are.
    """

    reduction: Reduction | None = None

    @abstractmethod
    def losses(self, pairs: PairLogprobs) -> Tensor:
        """The losses (P,)."""

    @abstractmethod
    def rewards(self, pairs: PairLogprobs) -> tuple[Tensor, Tensor]:
        """The implicit rewards (P,) of the chosen and the rejected sides, already multiplied by beta."""

    def __call__(self, pairs: PairLogprobs) -> tuple[Tensor, Stats]:
        """Losses (P,) and statistics (P,): both implicit rewards, their margin, accuracy, the gradient's weight.

        Raises:
            InputError: where the loss needs a reference and the pairs have none.
        """
        if self.needs_reference:
            log_ratios(pairs)
        stats = reward_stats(*self.rewards(pairs))
        return self.losses(pairs), stats | {"preference/gradient_weight": gradient_weight(self.losses, pairs)}


def log_ratios(pairs: PairLogprobs) -> tuple[Tensor, Tensor]:
    """log policy - log reference of the chosen and the rejected sides (P,).

    Raises:
        InputError: if there are no log-probs of a reference.
    """
    if pairs.reference_chosen is None or pairs.reference_rejected is None:
        raise InputError(
            "the pairs have no log-probs of a reference, and this loss compares with one; give the method a "
            "reference, or a loss without: SimPO, ORPO"
        )
    return pairs.chosen - pairs.reference_chosen, pairs.rejected - pairs.reference_rejected


def reward_stats(chosen: Float[Tensor, " P"], rejected: Float[Tensor, " P"]) -> Stats:
    """What rewards say of pairs; a tie counts as half right."""
    chosen, rejected = chosen.detach(), rejected.detach()
    margin = chosen - rejected
    return {
        "preference/reward_chosen": chosen,
        "preference/reward_rejected": rejected,
        "preference/margin": margin,
        "preference/accuracy": (torch.sign(margin) + 1) / 2,
    }


def gradient_weight(losses: Callable[[PairLogprobs], Tensor], pairs: PairLogprobs) -> Float[Tensor, " P"]:
    """How strongly each loss moves its pair apart: minus its derivative by (log pi_chosen - log pi_rejected).

    Measured with the sum of both held. For a loss of the difference alone it is, up to the sign, the ratio of
    the norms of the gradients by the parameters of the loss and of that difference; the sigmoid's is
    beta * sigmoid(-margin). Negative where a loss moves the two together (IPO beyond its target).
    """
    with torch.inference_mode(False), torch.enable_grad():
        sides = [side.detach().clone().requires_grad_() for side in (pairs.chosen, pairs.rejected)]
        free = replace(detached(pairs), chosen=sides[0], rejected=sides[1])
        by_chosen, by_rejected = torch.autograd.grad(losses(free).sum(), sides)
    return (by_rejected - by_chosen) / 2


def detached(pairs: PairLogprobs) -> PairLogprobs:
    """The same log-probs without a graph; under Lightning's inference mode they could not stand in one."""
    references = (pairs.reference_chosen, pairs.reference_rejected)
    copies = [None if value is None else value.detach().clone() for value in references]
    tokens = [count.clone() for count in (pairs.chosen_tokens, pairs.rejected_tokens)]
    return PairLogprobs(pairs.chosen.detach().clone(), pairs.rejected.detach().clone(), *tokens, *copies)


def check_positive(what: str, **settings: float) -> None:
    """
    Raises:
        InputError: for a setting that is not above 0.
    """
    for name, value in settings.items():
        if not value > 0:
            raise InputError(f"{what} needs {name} above 0 (got {value})")


def check_smoothing(what: str, smoothing: float) -> None:
    """
    Raises:
        InputError: for a share of wrong labels at which labels say nothing, or the contrary.
    """
    if not 0 <= smoothing < 0.5:
        raise InputError(
            f"{what}: smoothing is the share of pairs that are labelled the wrong way round, 0 or more and below "
            f"0.5 (got {smoothing})"
        )
