"""Answers that are right when they are the same text, or the same number."""

import re
from dataclasses import dataclass
from typing import Any, Literal

from lit_posttrain.batches import Completion, Grade, Problem, Verdict
from lit_posttrain.errors import InputError
from lit_posttrain.graders.rational import Number, equal, last_number, number_at, read_number
from lit_posttrain.graders.single import SingleGrader, bad_reference, decided, failed


@dataclass(frozen=True)
class ExactMatch(SingleGrader):
    """Correct when the stripped completion equals the stripped reference (a text or a number).

    Args:
        ignore_case: Whether capital and small letters count as the same.
    """

    ignore_case: bool = False

    def grade_one(self, problem: Problem, completion: Completion) -> Grade:
        """The answer key is the stripped text, in small letters when case is ignored."""
        reference = problem.reference
        if isinstance(reference, bool) or not isinstance(reference, str | int | float) or reference == "":
            return bad_reference(reference, "a text or a number")
        answer = self._canonical(completion.text)
        if not answer:
            return failed(Verdict.NO_ANSWER)
        return decided(answer == self._canonical(str(reference)), answer)

    def _canonical(self, text: str) -> str:
        return text.strip().casefold() if self.ignore_case else text.strip()


@dataclass(frozen=True)
class NumericMatch(SingleGrader):
    """Correct when a number of the completion has exactly the value of the reference.

    Numbers are read as exact rationals: integers, decimals and fractions, with thousands commas, a currency
    or percent sign and a trailing full stop. The reference is a number, or a text that is one.

    Args:
        take: Which number counts: `last` of the text, or the `whole` text must be one number.
        markers: Texts such as `####` or `answer is`, case ignored, the preferred first. A number directly
            after the last occurrence of one (a colon may stand between) is taken before `take` applies.
        tolerance: Relative error allowed where the reference is written as a decimal.
    """

    take: Literal["last", "whole"] = "last"
    markers: tuple[str, ...] = ()
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        if self.take not in ("last", "whole"):
            raise InputError(f"take={self.take!r} is no extraction rule; choose 'last' or 'whole'.")
        if any(not marker.strip() for marker in self.markers):
            raise InputError(f"markers={self.markers!r} holds a blank marker; remove it.")

    def grade_one(self, problem: Problem, completion: Completion) -> Grade:
        """The answer key is the value in lowest terms, such as `3/2`."""
        gold = reference_number(problem.reference)
        if gold is None:
            return bad_reference(problem.reference, "a number")
        exists, answer = self._find(completion.text)
        if answer is None:
            return failed(Verdict.MALFORMED if exists else Verdict.NO_ANSWER)
        return decided(equal(gold, answer, self.tolerance), answer.key)

    def _find(self, text: str) -> tuple[bool, Number | None]:
        """Whether something was stated, and the number if it could be read."""
        for marker in self.markers:
            position = _after_last(text, marker)
            number = None if position is None else number_at(text, position)
            if number is not None:
                return True, number
        if self.take == "last":
            return last_number(text)
        return bool(text.strip()), read_number(text)


def reference_number(reference: Any) -> Number | None:
    """The number that a problem's reference is, or None."""
    if isinstance(reference, bool) or not isinstance(reference, str | int | float):
        return None
    return read_number(str(reference))


def _after_last(text: str, marker: str) -> int | None:
    """Where the text goes on after the last occurrence of a marker and an optional colon."""
    end = None
    for match in re.finditer(re.escape(marker) + r"\s*:?\s*", text, re.IGNORECASE):
        end = match.end()
    return end
