"""How well scores of steps find wrong steps: F1, the first error, and ProcessBench's score."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_posttrain.errors import InputError

NO_ERROR = -1
"""Stands for the number of the first wrong step where all are right, as in ProcessBench."""
MOST_CANDIDATES = 200
"""Thresholds that are tried; of more scores, evenly spaced quantiles."""

Label = float | None


def first_error(scores: Sequence[Label], threshold: float = 0.5) -> int:
    """The number of the first step below the threshold, from 0; -1 if there is none. None says nothing of a step."""
    return next((i for i, score in enumerate(scores) if score is not None and score < threshold), NO_ERROR)


@dataclass(frozen=True)
class StepCounts:
    """What was found in a set of solutions.

    A wrong step is one whose label is below 1/2. Steps: `found` wrong ones scored as wrong, `missed` wrong ones
    scored as right, `alarms` right ones scored as wrong. Solutions: `erroneous` and `flawless` ones, of which
    `located` have their first error found at its very step, and `spared` are left alone.
    """

    found: int = 0
    missed: int = 0
    alarms: int = 0
    erroneous: int = 0
    located: int = 0
    flawless: int = 0
    spared: int = 0

    def __add__(self, other: "StepCounts") -> "StepCounts":
        return StepCounts(
            *(mine + theirs for mine, theirs in zip(_values(self), _values(other), strict=True))
        )

    @property
    def precision(self) -> float:
        """Share of the steps scored as wrong that are."""
        return _share(self.found, self.found + self.alarms)

    @property
    def recall(self) -> float:
        """Share of the wrong steps that are scored as wrong."""
        return _share(self.found, self.found + self.missed)

    @property
    def step_f1(self) -> float:
        """Harmonic mean of precision and recall of wrong steps: 2 found / (2 found + missed + alarms)."""
        return _share(2 * self.found, 2 * self.found + self.missed + self.alarms)

    @property
    def first_error_accuracy(self) -> float:
        """Share of all solutions in which the first error is found at its step, or rightly none."""
        return _share(self.located + self.spared, self.erroneous + self.flawless)

    @property
    def erroneous_accuracy(self) -> float:
        """Share of the erroneous solutions whose first error is found at its step."""
        return _share(self.located, self.erroneous)

    @property
    def flawless_accuracy(self) -> float:
        """Share of the flawless solutions in which no error is found."""
        return _share(self.spared, self.flawless)

    @property
    def processbench_f1(self) -> float:
        """Harmonic mean of the accuracies on erroneous and on flawless solutions; 0 where one of them is 0.

        Source: Zheng et al. 2024 (ProcessBench), arXiv:2412.06559, section 4.
        """
        left, right = self.erroneous_accuracy, self.flawless_accuracy
        return 2 * left * right / (left + right) if left + right else left + right


def step_counts(scores: Sequence[float], labels: Sequence[Label], threshold: float = 0.5) -> StepCounts:
    """What the scores of one solution, in [0, 1], find by its labels; a label of None says nothing.

    A score below the threshold says that the step is wrong. Steps after the first wrong one count for F1 where
    they have a label, and never for the first error.

    Raises:
        InputError: if there are not as many labels as scores.
    """
    if len(scores) != len(labels):
        raise InputError(
            f"there are {len(scores)} scores of steps, but {len(labels)} labels; give one for each"
        )
    known = [
        (score < threshold, label < 0.5)
        for score, label in zip(scores, labels, strict=True)
        if label is not None
    ]
    gold, said = first_error(labels), first_error(scores, threshold)
    return StepCounts(
        found=sum(flag and wrong for flag, wrong in known),
        missed=sum(wrong and not flag for flag, wrong in known),
        alarms=sum(flag and not wrong for flag, wrong in known),
        erroneous=int(gold != NO_ERROR),
        located=int(gold != NO_ERROR and said == gold),
        flawless=int(gold == NO_ERROR),
        spared=int(gold == NO_ERROR and said == NO_ERROR),
    )


def best_threshold(scores: Sequence[Sequence[float]], labels: Sequence[Sequence[Label]]) -> float:
    """The threshold with the highest ProcessBench score: halfway between two scores that occur, the lowest of ties.

    To be chosen on other solutions than are reported on, as ProcessBench chooses it on its GSM8K part.

    Raises:
        InputError: without solutions.
    """
    values = sorted({value for each in scores for value in each})
    if not values:
        raise InputError("a threshold is chosen by solutions with scores; got none")
    between = [(low + high) / 2 for low, high in pairwise(values)]
    candidates = [values[0], *between, math.nextafter(values[-1], math.inf)]
    if len(candidates) > MOST_CANDIDATES:
        step = (len(candidates) - 1) / (MOST_CANDIDATES - 1)
        candidates = [candidates[round(i * step)] for i in range(MOST_CANDIDATES)]
    return max(candidates, key=lambda threshold: _processbench(scores, labels, threshold))


class StepScores(Metric):
    """The measures of `StepCounts` over solutions, adding up over batches and ranks; nan where unknown.

    Args:
        threshold: Scores below it say that a step is wrong.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    def __init__(self, threshold: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        self.add_state("counts", torch.zeros(len(FIELDS), dtype=torch.int64), dist_reduce_fx="sum")
        self.counts: Tensor

    def update(self, scores: Sequence[Sequence[float]], labels: Sequence[Sequence[Label]]) -> None:
        """Adds solutions by the scores of their steps, in [0, 1], and their labels."""
        for mine, gold in zip(scores, labels, strict=True):
            found = step_counts(mine, gold, self.threshold)
            self.counts += torch.tensor(_values(found), device=self.counts.device)

    def compute(self) -> dict[str, Tensor]:
        """`step_f1`, `first_error_accuracy`, `processbench_f1` and what these are made of."""
        total = StepCounts(*self.counts.tolist())
        return {name: torch.tensor(getattr(total, name), dtype=torch.float64) for name in MEASURES}


FIELDS = tuple(StepCounts.__dataclass_fields__)
MEASURES = (
    "step_f1",
    "precision",
    "recall",
    "first_error_accuracy",
    "erroneous_accuracy",
    "flawless_accuracy",
    "processbench_f1",
)


def _values(counts: StepCounts) -> list[int]:
    return [getattr(counts, name) for name in FIELDS]


def _processbench(
    scores: Sequence[Sequence[float]], labels: Sequence[Sequence[Label]], threshold: float
) -> float:
    total = sum(
        (step_counts(mine, gold, threshold) for mine, gold in zip(scores, labels, strict=True)), StepCounts()
    )
    return total.processbench_f1


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
