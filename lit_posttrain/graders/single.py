"""Graders that judge each completion by itself, in the calling thread."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from lit_posttrain.batches import Completion, Grade, Problem, Verdict
from lit_posttrain.contracts import Grader


class SingleGrader(Grader):
    """A grader that needs to see only one item at a time: a child says how in `grade_one`."""

    def grade(self, items: Sequence[tuple[Problem, Completion]]) -> list[Grade]:
        """One grade per item, in order."""
        return [self.grade_one(problem, completion) for problem, completion in items]

    @abstractmethod
    def grade_one(self, problem: Problem, completion: Completion) -> Grade:
        """The grade of one completion."""


def decided(is_correct: bool, answer_key: str | None = None, note: str = "") -> Grade:
    """Reward 1 for a correct answer, 0 for a wrong one."""
    verdict = Verdict.CORRECT if is_correct else Verdict.INCORRECT
    return Grade(float(is_correct), is_correct, verdict, answer_key=answer_key, note=note)


def failed(verdict: Verdict, note: str = "", reward: float = 0.0, answer_key: str | None = None) -> Grade:
    """Wrong because of the model's text: no answer, malformed, or too expensive to judge."""
    return Grade(reward, False, verdict, answer_key=answer_key, note=note)


def ungraded(verdict: Verdict, note: str = "") -> Grade:
    """Could not be graded, through no fault of the model's: reward and correctness are None."""
    return Grade(None, None, verdict, note=note)


def bad_reference(reference: Any, expected: str) -> Grade:
    """The grade where the problem's own reference cannot be used."""
    return ungraded(Verdict.GOLD_UNPARSEABLE, f"reference {str(reference)[:80]!r} is not {expected}")
