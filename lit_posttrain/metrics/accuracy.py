"""Accuracy over held-out problems with its errors, from counts per problem."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lit_posttrain.errors import InputError


@dataclass(frozen=True)
class MeanOverProblems:
    """A mean over n problems, and its standard error for new problems of the same kind."""

    mean: float
    standard_error: float
    problems: int


@dataclass(frozen=True)
class AccuracyStatistics:
    """pass@1 of a policy on a set of problems.

    `standard_error` answers "what if the problems had been others", `standard_error_fixed` "what if these
    problems had been sampled again"; the second is the noise along one run's curve, and `within_variance` its
    square. `problems` counts those with a graded sample, `unknown_problems` those without. nan where unknown.
    """

    accuracy: float
    standard_error: float
    standard_error_fixed: float
    within_variance: float
    problems: int
    unknown_problems: int
    correct: int
    graded: int


def over_problems(values: Sequence[float]) -> MeanOverProblems:
    """Mean and standard error of one value per problem; the error of a single problem is nan."""
    n = len(values)
    if n == 0:
        return MeanOverProblems(math.nan, math.nan, 0)
    array = np.asarray(values, dtype=np.float64)
    error = math.sqrt(array.var(ddof=1) / n) if n > 1 else math.nan
    return MeanOverProblems(float(array.mean()), error, n)


def accuracy_statistics(correct: Sequence[int], graded: Sequence[int]) -> AccuracyStatistics:
    """Accuracy and its errors from `correct` and `graded` samples of each problem.

    Ungraded samples are in neither count, so k may differ from problem to problem; a problem without any
    graded sample is left out of every mean. Each problem counts alike, however many samples were graded.

    Raises:
        InputError: if a problem has more correct than graded samples, or the counts differ in length.
    """
    c, k = np.asarray(correct, dtype=np.float64), np.asarray(graded, dtype=np.float64)
    if c.shape != k.shape or bool((c > k).any()) or bool((c < 0).any()):
        raise InputError(
            f"counts of correct and of graded samples do not fit (shapes {c.shape} and {k.shape}); "
            "expected 0 <= correct <= graded for each problem."
        )
    known = k > 0
    share, k = c[known] / k[known], k[known]
    level = over_problems(share.tolist())
    within = _within_variance(share, k)
    return AccuracyStatistics(
        accuracy=level.mean,
        standard_error=level.standard_error,
        standard_error_fixed=math.sqrt(within),
        within_variance=within,
        problems=level.problems,
        unknown_problems=int((~known).sum()),
        correct=int(c.sum()),
        graded=int(k.sum()),
    )


def _within_variance(share: np.ndarray, k: np.ndarray) -> float:
    """Sum over problems of p(1-p)/(k-1), divided by n^2: the variance of the mean for this fixed set.

    A problem left with one graded sample shows no spread of its own and gets the mean spread of the others,
    instead of 0.
    """
    several = k > 1
    if not several.any():
        return math.nan
    spread = share[several] * (1 - share[several]) * k[several] / (k[several] - 1)
    total = (spread / k[several]).sum() + spread.mean() * float((~several).sum())
    return float(total / len(share) ** 2)
