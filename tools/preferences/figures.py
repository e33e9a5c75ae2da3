"""Accuracies on pairs and their differences, with standard errors for new dialogues."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mean:
    """A mean and its standard error."""

    value: float
    error: float

    def __format__(self, sign: str) -> str:
        return f"{self.value:{sign}.3f} ± {self.error:.3f}"


def hits(margins: Tensor) -> Tensor:
    """1 where the better side is scored higher, 1/2 for a tie, 0 else, (P,) float64."""
    return (margins.double().sign() + 1) / 2


def mean_of(values: Tensor, groups: Sequence[str]) -> Mean:
    """The mean over pairs (P,); pairs of one group, which begin with the same question, are not independent.

    The error is that of new groups: with residuals r, sqrt(G/(G - 1) sum over groups of (sum r)^2) / P. Without
    repeated groups it is the usual one.
    """
    numbers = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    group = torch.tensor([numbers[name] for name in groups])
    mean = values.mean()
    sums = torch.zeros(len(numbers), dtype=torch.float64).index_add(0, group, values - mean)
    spread = len(numbers) / (len(numbers) - 1) * sums.square().sum()
    return Mean(float(mean), float(spread.sqrt() / len(values)))


def difference(margins: Tensor, others: Tensor, groups: Sequence[str]) -> Mean:
    """How much more often the first is right than the second, on the same pairs."""
    return mean_of(hits(margins) - hits(others), groups)
