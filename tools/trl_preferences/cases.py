"""The tensors that both sides get, and what is computed from them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lit_posttrain.objectives.completions import Desensitised
from lit_posttrain.objectives.divergences import AlphaDivergence, ForwardKL, JensenShannon
from lit_posttrain.objectives.log_ratio_losses import IPO, APODown, APOZero, Hinge, Robust
from lit_posttrain.objectives.pair_terms import PolicyWeighted, WithLikelihood
from lit_posttrain.objectives.preference import BradleyTerry, Sigmoid
from lit_posttrain.objectives.reference_free import ORPO, SimPO
from lit_posttrain.objectives.steps import step_loss
from lit_posttrain.objectives.unpaired import KTO, APOZeroUnpaired
from trl_preferences import ours, theirs

PAIRS, WIDTH = 6, 14
LENGTHS = [3, 8, 12, 5, 9, 14, 7, 8, 2, 11, 14, 4]
"""Tokens of the completions: of the chosen sides, then of the rejected ones."""


@dataclass(frozen=True)
class Case:
    """The same thing in TRL and in ours: each from the tensors, to a loss () of the first of them."""

    theirs: Callable[[dict[str, Tensor]], Tensor]
    ours: Callable[[dict[str, Tensor]], Tensor]
    even: bool = False
    why: str = ""
    leaf: str = "logprobs"


def tensors(even: bool) -> dict[str, Tensor]:
    """Log-probs of the tokens of 6 pairs (12, 14), of a reference, and scores; 0 outside of completions."""
    draw = torch.Generator().manual_seed(7)
    lengths = torch.tensor([8] * 2 * PAIRS if even else LENGTHS)
    mask = torch.arange(WIDTH) < lengths[:, None]
    logprobs = -torch.empty(2 * PAIRS, WIDTH).exponential_(1.2, generator=draw) * mask
    shift = torch.randn(2 * PAIRS, WIDTH, generator=draw) / 2
    return {
        "logprobs": logprobs,
        "mask": mask,
        "reference": (logprobs + shift) * mask,
        "collision": -torch.empty(2 * PAIRS, WIDTH).exponential_(1.0, generator=draw) * mask,
        "mismatched": torch.tensor([-4.0, -9.0, -7.5]),
        "mismatched_reference": torch.tensor([-5.0, -9.5, -7.0]),
        "desirable": torch.arange(2 * PAIRS) % 3 != 1,
        "scores": torch.randn(2 * PAIRS, generator=draw) * 2,
        "margin": torch.tensor([0.0, 0.5, 1.0, 0.2, 0.0, 2.0]),
        "step_logits": torch.randn(5, 9, 2, generator=draw),
        "step_labels": torch.randint(0, 2, (5, 9), generator=draw),
        "step_ends": torch.arange(45).reshape(5, 9) % 4 == 2,
    }


def dpo(loss: Any, name: str | list[str], averaged: bool = False, **settings: Any) -> Case:
    """A loss of pairs beside a loss type of DPOTrainer."""
    settings = {"beta": 0.1, "loss_types": [name] if isinstance(name, str) else name} | settings
    return Case(partial(theirs.dpo, settings=settings), partial(ours.pairs, loss=loss, averaged=averaged))


def cpo(loss: Any, kind: str, averaged: bool, reference: bool = False, **settings: Any) -> Case:
    """A loss of pairs beside one of CPOTrainer, whose log-probs may be log-ratios."""
    settings = {"loss_type": kind, "alpha": 0.0, "label_smoothing": 0.0} | settings
    return Case(
        partial(theirs.cpo, settings=settings, averaged=averaged, reference=reference),
        partial(ours.pairs, loss=loss, averaged=averaged),
    )


def kto(loss: Any, kind: str) -> Case:
    """A loss of single completions beside one of KTOTrainer."""
    return Case(
        partial(theirs.kto, kind=kind, beta=0.2, weights=(1.0, 1.5)), partial(ours.unpaired, loss=loss)
    )


def reward(loss: Any, margin: bool, centring: float | None) -> Case:
    """A loss of scores beside RewardTrainer's."""
    return Case(
        partial(theirs.reward, margin=margin, centring=centring),
        partial(ours.reward, loss=loss),
        leaf="scores",
    )


ALPHA = {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3}
CASES: dict[str, Case] = {
    "Sigmoid(0.1)": dpo(Sigmoid(0.1), "sigmoid"),
    "Sigmoid, averaged": dpo(Sigmoid(0.5), "sigmoid_norm", True, beta=0.5),
    "Sigmoid(0.1, smoothing=0.2)": cpo(Sigmoid(0.1, 0.2), "sigmoid", False, True, beta=0.1, label_smoothing=0.2),
    "Sigmoid, ForwardKL": dpo(Sigmoid(0.1, 0.0, ForwardKL()), "sigmoid", f_divergence_type="forward_kl"),
    "Sigmoid, JensenShannon": dpo(Sigmoid(0.1, 0.0, JensenShannon()), "sigmoid", f_divergence_type="js_divergence"),
    "Sigmoid, AlphaDivergence(0.7)": dpo(Sigmoid(0.1, 0.0, AlphaDivergence(0.7)), "sigmoid", **ALPHA),
    "IPO(0.1), averaged": dpo(IPO(0.1), "ipo", True),
    "Hinge(0.3)": dpo(Hinge(0.3), "hinge", beta=0.3),
    "Robust(0.1, 0.2)": dpo(Robust(0.1, 0.2), "robust", label_smoothing=0.2),
    "APOZero(0.2)": dpo(APOZero(0.2), "apo_zero", beta=0.2),
    "APODown(0.2)": dpo(APODown(0.2), "apo_down", beta=0.2),
    "SimPO(2, gap=1)": cpo(SimPO(2.0, 1.0), "simpo", True, beta=2.0, simpo_gamma=1.0),
    "ORPO(0.1), equal lengths": Case(
        partial(theirs.orpo, beta=0.1), partial(ours.pairs, loss=ORPO(0.1), averaged=True), even=True
    ),
    "WithLikelihood, equal lengths": Case(
        partial(theirs.dpo, settings={"beta": 0.1, "loss_types": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]}),
        partial(ours.pairs, loss=WithLikelihood(Sigmoid(0.1), 0.7)),
        even=True,
    ),
    "PolicyWeighted, unaligned": Case(
        partial(theirs.dpo, settings={"beta": 0.1, "loss_types": ["sigmoid"], "use_weighting": True}, aligned=False),
        partial(ours.pairs, loss=PolicyWeighted(Sigmoid(0.1))),
    ),
    "pair_weight, aligned": Case(
        partial(theirs.dpo, settings={"beta": 0.1, "loss_types": ["sigmoid"], "use_weighting": True}),
        ours.aligned,
    ),
    "Sigmoid, Desensitised(0.3)": Case(
        partial(theirs.dpo_desensitised, beta=0.1, alpha=0.3),
        partial(ours.desensitised, loss=Sigmoid(0.1), how=Desensitised(0.3)),
    ),
    "KTO(0.2, 1, 1.5)": kto(KTO(0.2, 1.0, 1.5), "kto"),
    "APOZeroUnpaired(0.2, 1, 1.5)": kto(APOZeroUnpaired(0.2, 1.0, 1.5), "apo_zero_unpaired"),
    "BradleyTerry(use_margin=False)": reward(BradleyTerry(False), False, None),
    "BradleyTerry, margin": reward(BradleyTerry(), True, None),
    "BradleyTerry, margin, centring": reward(BradleyTerry(centring=0.01), True, 0.01),
    "step_loss (PRM)": Case(theirs.steps, partial(ours.steps, loss=step_loss), leaf="step_logits"),
}  # fmt: skip
"""What must agree."""

DIFFERENT: dict[str, Case] = {
    "IPO(0.1), summed": Case(
        partial(theirs.dpo, settings={"beta": 0.1, "loss_types": ["ipo"]}),
        partial(ours.pairs, loss=IPO(0.1)),
        why="TRL averages IPO's log-probs over tokens, whatever is asked. Ours takes what the method gives; averaged, "
        "as the authors mean it, both agree (above).",
    ),
    "conservative in DPOTrainer": Case(
        partial(theirs.dpo, settings={"beta": 0.1, "loss_types": ["sigmoid"], "label_smoothing": 0.2}),
        partial(ours.pairs, loss=Sigmoid(0.1, 0.2)),
        why="this version of DPOTrainer takes label_smoothing and leaves it out of `sigmoid`. Ours is the paper's, and "
        "equals CPOTrainer's formula on the same log-ratios (above).",
    ),
    "ORPO(0.1)": Case(
        partial(theirs.orpo, beta=0.1),
        partial(ours.pairs, loss=ORPO(0.1), averaged=True),
        why="TRL takes the likelihood's mean over all tokens of the batch (and of prompts, which is left out here), so "
        "that long answers count more, and the odds' over pairs. Ours takes both over pairs, as the paper's "
        "expectation; with equal lengths both agree (above).",
    ),
    "WithLikelihood": Case(
        partial(
            theirs.dpo, settings={"beta": 0.1, "loss_types": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]}
        ),
        partial(ours.pairs, loss=WithLikelihood(Sigmoid(0.1), 0.7)),
        why="the same: TRL's `sft` is a mean over the tokens of the batch, ours the paper's mean over pairs.",
    ),
    "PolicyWeighted": Case(
        partial(theirs.dpo, settings={"beta": 0.1, "loss_types": ["sigmoid"], "use_weighting": True}),
        partial(ours.pairs, loss=PolicyWeighted(Sigmoid(0.1))),
        why="TRL aligns the weights: it divides by the chance that two draws from the policy are equal, token by "
        "token. Ours has no sums over the vocabulary; given aligned log-probs, `pair_weight` agrees (above).",
    ),
}
"""Where the two are not alike on purpose, and why."""
