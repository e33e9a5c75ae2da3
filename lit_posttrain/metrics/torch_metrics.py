"""The estimators as torchmetrics, which add up over batches and ranks."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_posttrain.batches import Grade
from lit_posttrain.metrics.majority import majority_at_k
from lit_posttrain.metrics.pass_at_k import pass_at_k


class ProblemMean(Metric):
    """Mean over problems of one value each, with its standard error; nan where unknown."""

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("total", "squares", "problems"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.total: Tensor
        self.squares: Tensor
        self.problems: Tensor

    def update(self, grades: Sequence[Sequence[Grade]]) -> None:
        """Adds the problems whose grades, one list each, say something about the value."""
        for group in grades:
            value = self.value(group)
            if value is not None:
                self.total += value
                self.squares += value**2
                self.problems += 1

    @abstractmethod
    def value(self, grades: Sequence[Grade]) -> float | None:
        """The value of one problem, or None if its grades do not tell."""

    def compute(self) -> dict[str, Tensor]:
        """Mean and its standard error for new problems."""
        n = self.problems
        mean = self.total / n if n > 0 else torch.full_like(n, math.nan)
        spread = (
            ((self.squares - n * mean**2) / (n - 1)).clamp(min=0) if n > 1 else torch.full_like(n, math.nan)
        )
        return {"mean": mean, "standard_error": (spread / n).sqrt()}


class MeanAccuracy(ProblemMean):
    """Share of correct samples among those that were judged right or wrong."""

    def value(self, grades: Sequence[Grade]) -> float | None:
        """Share of correct samples of one problem."""
        judged = [grade.correct for grade in grades if grade.correct is not None]
        return sum(judged) / len(judged) if judged else None


class MeanReward(ProblemMean):
    """Mean reward of the graded samples."""

    def value(self, grades: Sequence[Grade]) -> float | None:
        """Mean reward of one problem."""
        rewards = [grade.reward for grade in grades if grade.reward is not None]
        return math.fsum(rewards) / len(rewards) if rewards else None


class PassAtK(ProblemMean):
    """Unbiased pass@k; a problem with fewer than k judged samples is left out.

    Args:
        k: Size of the imagined attempt.
    """

    def __init__(self, k: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.k = k

    def value(self, grades: Sequence[Grade]) -> float | None:
        """pass@k of one problem."""
        judged = [grade.correct for grade in grades if grade.correct is not None]
        return pass_at_k(len(judged), sum(judged), self.k) if len(judged) >= self.k else None


class MajorityAtK(ProblemMean):
    """Exact majority@k by answer key; a problem with fewer than k judged samples is left out.

    Args:
        k: Voters.
    """

    def __init__(self, k: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.k = k

    def value(self, grades: Sequence[Grade]) -> float | None:
        """majority@k of one problem."""
        judged = [(grade.answer_key, grade.correct) for grade in grades if grade.correct is not None]
        if len(judged) < self.k:
            return None
        return majority_at_k([key for key, _ in judged], [bool(right) for _, right in judged], self.k)
