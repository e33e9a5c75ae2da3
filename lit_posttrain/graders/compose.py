"""One reward from several graders."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from lit_posttrain.batches import Completion, Grade, Problem
from lit_posttrain.contracts import Grader
from lit_posttrain.errors import InputError
from lit_posttrain.ledger import Spent


@dataclass(frozen=True)
class WeightedSum(Grader):
    """The weighted sum of the rewards of several graders; its parts are their unweighted rewards.

    The reward is None if any part could not be graded. `lowest` is the sum with every part at its lowest.

    Args:
        graders: The parts.
        weights: One weight for each part.
        names: Names of the parts, lower_snake, for `reward/<part>`; empty takes the class names.
        correct_from: Index of the part that says what is correct, and gives verdict and answer key.
    """

    graders: list[Grader]
    weights: list[float]
    names: tuple[str, ...] = ()
    correct_from: int = 0
    lowest: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        if not self.graders or len(self.graders) != len(self.weights):
            raise InputError(
                f"{len(self.graders)} graders came with {len(self.weights)} weights; "
                "give at least one grader and one weight for each."
            )
        if not 0 <= self.correct_from < len(self.graders):
            raise InputError(
                f"correct_from={self.correct_from} names no grader; they are 0 to {len(self.graders) - 1}."
            )
        object.__setattr__(self, "names", self._checked_names())
        lowest = sum(w * grader.lowest for w, grader in zip(self.weights, self.graders, strict=True))
        object.__setattr__(self, "lowest", lowest)

    def grade(self, items: Sequence[tuple[Problem, Completion]]) -> list[Grade]:
        """One grade per item, in order; each part sees the whole list at once."""
        columns = [grader.grade(items) for grader in self.graders]
        return [self._sum(row) for row in zip(*columns, strict=True)]

    def take_spent(self) -> Spent:
        """What all parts took."""
        return sum((grader.take_spent() for grader in self.graders), start=Spent())

    def close(self) -> None:
        """Closes every part."""
        for grader in self.graders:
            grader.close()

    def _sum(self, row: Sequence[Grade]) -> Grade:
        parts = {
            n: grade.reward for n, grade in zip(self.names, row, strict=True) if grade.reward is not None
        }
        note = "; ".join(f"{n}: {grade.note}" for n, grade in zip(self.names, row, strict=True) if grade.note)
        missing = next((grade for grade in row if grade.reward is None), None)
        if missing is not None:
            return Grade(None, None, missing.verdict, parts, note=note)
        reward = sum(weight * parts[name] for weight, name in zip(self.weights, self.names, strict=True))
        judge = row[self.correct_from]
        return Grade(reward, judge.correct, judge.verdict, parts, judge.answer_key, note)

    def _checked_names(self) -> tuple[str, ...]:
        names = self.names or _class_names(self.graders)
        if len(names) != len(self.graders) or len(set(names)) != len(names):
            raise InputError(
                f"names={names!r} must be {len(self.graders)} different names, one for each grader."
            )
        bad = [name for name in names if not re.fullmatch("[a-z0-9_]+", name)]
        if bad:
            raise InputError(
                f"part names {bad} are not lower_snake; use small letters, digits and underscores."
            )
        return tuple(names)


def _class_names(graders: Sequence[Grader]) -> tuple[str, ...]:
    """Class names in lower_snake; the second of a kind gets `_2`."""
    names: list[str] = []
    for grader in graders:
        base = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(grader).__name__).lower()
        number = sum(re.fullmatch(rf"{base}(_\d+)?", name) is not None for name in names) + 1
        names.append(base if number == 1 else f"{base}_{number}")
    return tuple(names)
