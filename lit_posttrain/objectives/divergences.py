"""What may tie a policy to its reference in place of the reverse KL."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import log

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from lit_posttrain.errors import InputError

MAX_EXPONENT = 80.0
"""Exponents are held below this; exp(80) is 5.5e34, the largest power of ten in float32 is 1e38."""


class Divergence(ABC):
    """An f-divergence between policy and reference: under it a reward is beta f'(pi / pi_ref) plus a constant.

    Source: Wang et al. 2023, arXiv:2309.16240, table 1 and theorem 1.
    """

    @abstractmethod
    def score(self, log_ratio: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """f'(exp(log_ratio)), up to a constant that differences do not see."""


@dataclass(frozen=True)
class ReverseKL(Divergence):
    """KL(policy || reference): f'(u) = log u + 1. Seeks modes; DPO's own."""

    def score(self, log_ratio: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """The log-ratio itself."""
        return log_ratio


@dataclass(frozen=True)
class ForwardKL(Divergence):
    """KL(reference || policy): f'(u) = -1/u. Covers the reference; a completion that it loses costs without bound."""

    def score(self, log_ratio: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """1 - exp(-log_ratio)."""
        return 1 - torch.exp((-log_ratio).clamp(max=MAX_EXPONENT))


@dataclass(frozen=True)
class JensenShannon(Divergence):
    """Between the two: f'(u) = log(2u / (1 + u)), which is bounded above by ln 2."""

    def score(self, log_ratio: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """ln 2 + log sigmoid(log_ratio)."""
        return log(2) + logsigmoid(log_ratio)


@dataclass(frozen=True)
class AlphaDivergence(Divergence):
    """From the reverse KL (alpha -> 0) to the forward KL (alpha -> 1): f'(u) = (1 - u^-alpha) / alpha.

    Args:
        alpha: Above 0 and below 1. TRL's `f_alpha_divergence_coef` is 1 - alpha.
    """

    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise InputError(
                f"an alpha-divergence has 0 < alpha < 1 (got {self.alpha}); its ends are ReverseKL and ForwardKL"
            )

    def score(self, log_ratio: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """(1 - exp(-alpha log_ratio)) / alpha."""
        return -torch.expm1((-self.alpha * log_ratio).clamp(max=MAX_EXPONENT)) / self.alpha
