"""What rollouts behind a step say of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lit_posttrain.batches import Grade, Problem
from lit_posttrain.errors import InputError


@dataclass(frozen=True)
class Solution:
    """A solution in steps. `finished`: its last step states the answer, so that nothing comes after it."""

    problem: Problem
    steps: tuple[str, ...]
    finished: bool = True

    def record(self, labels: Sequence[float | None]) -> dict[str, Any]:
        """A row of the stepwise layout, which `Table` reads and `StepData` learns from."""
        messages = [dict(message) for message in self.problem.messages]
        return {"prompt": messages, "completions": list(self.steps), "labels": list(labels)}


@dataclass(frozen=True)
class StepValue:
    """How many of the rollouts behind a step that could be graded were right."""

    correct: int
    graded: int

    @property
    def soft(self) -> float | None:
        """The share that was right: an unbiased estimate of the chance v that the policy succeeds from here."""
        return self.correct / self.graded if self.graded else None

    @property
    def hard(self) -> float | None:
        """1 where at least one was right. Its mean over draws is 1 - (1 - v)^n, above v: every n has its own labels."""
        return float(self.correct > 0) if self.graded else None

    @property
    def standard_error(self) -> float:
        """That of `soft`; nan below 2 rollouts."""
        if self.graded < 2:
            return math.nan
        share = self.correct / self.graded
        return math.sqrt(share * (1 - share) / (self.graded - 1))


def counted(grades: Sequence[Grade]) -> StepValue:
    """How many could be graded and how many were right.

    Raises:
        InputError: if a grade has a reward and does not say whether the answer is correct.
    """
    graded = [grade for grade in grades if grade.reward is not None]
    if any(grade.correct is None for grade in graded):
        raise InputError(
            "the grader gives rewards and does not say what is correct, so rollouts cannot be counted; use one that "
            "compares with a reference"
        )
    return StepValue(sum(bool(grade.correct) for grade in graded), len(graded))
