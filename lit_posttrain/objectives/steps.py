"""Process reward models: the loss of a step's score, and how the scores of steps become one of a solution."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from lit_posttrain.errors import InputError

Aggregation = Literal["minimum", "product", "last", "mean"]


def step_loss(scores: Float[Tensor, "*shape"], labels: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """-y log sigmoid(s) - (1 - y) log(1 - sigmoid(s)): the score of a step is the log odds that it is right.

    A label is 0, 1 or, soft, a chance between; with a soft one the loss does not fall below its entropy. The
    derivative by the score is sigmoid(s) - y.

    Raises:
        InputError: if a label is outside [0, 1], NaN included; steps without a label are to be left out before.

    Source: Lightman et al. 2023, arXiv:2305.20050, section 2.6; soft labels: Wang et al. 2024 (Math-Shepherd),
    arXiv:2312.08935, eq. 2 to 4.
    """
    if not bool(((labels >= 0) & (labels <= 1)).all()):
        raise InputError(
            f"labels of steps are from 0 to 1 (got {float(labels.min())} to {float(labels.max())}); scale them, and "
            "leave out steps without a label"
        )
    return binary_cross_entropy_with_logits(scores, labels.to(scores.dtype), reduction="none")


def minimum(logprobs: Float[Tensor, "S N"], known: Bool[Tensor, "S N"]) -> Float[Tensor, " S"]:
    """The worst step decides."""
    return torch.where(known, logprobs, 0.0).amin(-1)


def product(logprobs: Float[Tensor, "S N"], known: Bool[Tensor, "S N"]) -> Float[Tensor, " S"]:
    """The chance that all steps are right, were they independent; long solutions have lower ones."""
    return torch.where(known, logprobs, 0.0).sum(-1)


def last(logprobs: Float[Tensor, "S N"], known: Bool[Tensor, "S N"]) -> Float[Tensor, " S"]:
    """The last step speaks for all, as where a label says how likely the answer will be right."""
    places = torch.arange(known.shape[-1], device=known.device)
    at = torch.where(known, places, 0).amax(-1, keepdim=True)
    return torch.where(known.any(-1), logprobs.gather(-1, at).squeeze(-1), 0.0)


def mean(logprobs: Float[Tensor, "S N"], known: Bool[Tensor, "S N"]) -> Float[Tensor, " S"]:
    """The mean of the steps' chances, not of their logarithms."""
    chances = torch.where(known, logprobs, -torch.inf).logsumexp(-1)
    return torch.where(known.any(-1), chances - known.sum(-1).clamp(min=1).log(), 0.0)


AGGREGATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "minimum": minimum,
    "product": product,
    "last": last,
    "mean": mean,
}
"""Each takes log-chances of steps (S, N), in nats, and which of them are `known`, and gives one (S,).

A solution without any known step gets 0, the chance 1: nothing speaks against it.
"""


def aggregation(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The aggregation of that name.

    Raises:
        InputError: for an unknown name.

    Source: minimum and product: Lightman et al. 2023, arXiv:2305.20050, appendix F; last: Wang et al. 2024,
    arXiv:2312.08935 compares with the minimum; mean: Zhang et al. 2025, arXiv:2501.07301, section 3.
    """
    if name not in AGGREGATIONS:
        raise InputError(
            f"there is no aggregation {name!r} of steps; choose one of {', '.join(AGGREGATIONS)}"
        )
    return AGGREGATIONS[name]


def solution_score(scores: Float[Tensor, " N"], how: str) -> float:
    """One chance in [0, 1] of a solution from those of its steps, in [0, 1]; worked in log space, in float64.

    Raises:
        InputError: for an unknown aggregation, or no steps.
    """
    if not len(scores):
        raise InputError("a solution without steps has no score; give it the lowest")
    logs = scores.double().log()[None]
    return float(aggregation(how)(logs, torch.ones_like(logs, dtype=torch.bool)).exp())
