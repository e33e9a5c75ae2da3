"""Chains of small sums and products, with or without their steps written down."""

from dataclasses import dataclass
from random import Random

from lit_posttrain.data.sources.arithmetic import OPERATIONS
from lit_posttrain.data.sources.procedural import Drawn, ProceduralSource
from lit_posttrain.errors import InputError


@dataclass(frozen=True)
class ChainedArithmetic(ProceduralSource):
    """Problems such as `7+5*3-8=`: the last digit of the value, worked out strictly from left to right.

    Here `7+5` gives 2, `2*3` gives 6, `6-8` gives 8. The answer is `8`, or with `reasoning` the value after every
    step, `2,6,8`, whose last number is the answer. Each step is a table of a hundred entries; without them a
    network must compose all steps before its first token, for which it has only as many layers.

    Args:
        operands: Digits in a problem.
        operations: Characters out of `+-*`; each place takes one of them at random.
        reasoning: Whether the worked answer shows the steps.
        train_size: Training problems, drawn with replacement; any number costs nothing.
        held_out_size: Problems in each of validation and test.
        held_out_share: Share of all problems that belongs to validation, and as much again to test, by a
            hash of the problem.
        seed: Of the draws; the split of a problem does not depend on it.
    """

    operands: int = 6
    operations: str = "+-*"
    reasoning: bool = False
    train_size: int = 65_536
    held_out_size: int = 1024
    held_out_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.operands < 2:
            raise InputError(f"a chain needs at least 2 operands; got {self.operands}")
        if not self.operations or set(self.operations) - set(OPERATIONS):
            raise InputError(
                f"operations must be characters out of {''.join(OPERATIONS)}; got {self.operations!r}"
            )
        self.check()

    def draw(self, random: Random) -> Drawn:
        """One problem of the whole space."""
        digits = [random.randrange(10) for _ in range(self.operands)]
        signs = [random.choice(self.operations) for _ in digits[1:]]
        values = running_values(digits, signs)
        text = str(digits[0]) + "".join(
            f"{sign}{digit}" for sign, digit in zip(signs, digits[1:], strict=True)
        )
        worked = ",".join(map(str, values)) if self.reasoning else str(values[-1])
        return Drawn(f"{text}=", worked, str(values[-1]), text)


def running_values(digits: list[int], signs: list[str]) -> list[int]:
    """The last digit after each operation, from left to right."""
    value, values = digits[0], []
    for sign, digit in zip(signs, digits[1:], strict=True):
        value = OPERATIONS[sign](value, digit) % 10
        values.append(value)
    return values
