"""Worked chains of small sums and products, of which some have a planted first error."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from lit_posttrain.data.formats.row_types import StepwiseRow
from lit_posttrain.data.sources.arithmetic import OPERATIONS
from lit_posttrain.data.sources.procedural import Drawn, Lazy, ProceduralSource
from lit_posttrain.data.sources.splitting import check_split
from lit_posttrain.errors import InputError

STEP_END = "\n"


@dataclass(frozen=True)
class Step:
    """One line of a derivation: `left` and `right` are digits, `value` is what it says their result is."""

    left: int
    sign: str
    right: int
    value: int

    def __str__(self) -> str:
        return f"{self.left}{self.sign}{self.right}={self.value}"


@dataclass(frozen=True)
class Chain:
    """A problem: digits with signs between them, worked from left to right modulo a number up to 10."""

    digits: tuple[int, ...]
    signs: tuple[str, ...]
    modulus: int = 10

    @classmethod
    def drawn(cls, random: Random, operands: int, operations: str, modulus: int) -> "Chain":
        """A random one."""
        digits = tuple(random.randrange(modulus) for _ in range(operands))
        return cls(digits, tuple(random.choice(operations) for _ in digits[1:]), modulus)

    def __str__(self) -> str:
        rest = zip(self.signs, self.digits[1:], strict=True)
        return str(self.digits[0]) + "".join(f"{sign}{digit}" for sign, digit in rest)

    def __len__(self) -> int:
        return len(self.signs)

    def step(self, number: int, left: int, right: int | None = None) -> Step:
        """The line number `number`, rightly calculated, if the one before it gave `left`; `right` for another digit."""
        sign, digit = self.signs[number], self.digits[number + 1] if right is None else right
        return Step(left, sign, digit, OPERATIONS[sign](left, digit) % self.modulus)

    def other(self, digit: int, random: Random) -> int:
        """Any digit but this one."""
        return (digit + random.randrange(1, self.modulus)) % self.modulus

    def worked(self, begin: Sequence[Step] = ()) -> list[Step]:
        """All lines: these, then the right ones that follow from what the last of them says."""
        steps = list(begin)
        for number in range(len(steps), len(self)):
            steps.append(self.step(number, steps[-1].value if steps else self.digits[0]))
        return steps


def miscalculated(chain: Chain, number: int, left: int, random: Random) -> Step:
    """A line with another result."""
    step = chain.step(number, left)
    return replace(step, value=chain.other(step.value, random))


def miscopied_value(chain: Chain, number: int, left: int, random: Random) -> Step:
    """A line that goes on from another value than the one before gave, rightly calculated."""
    return chain.step(number, chain.other(left, random))


def miscopied_operand(chain: Chain, number: int, left: int, random: Random) -> Step:
    """A line that takes another digit than the problem has, rightly calculated."""
    return chain.step(number, left, chain.other(chain.digits[number + 1], random))


ERRORS: tuple[Callable[[Chain, int, int, Random], Step], ...] = (
    miscalculated,
    miscopied_value,
    miscopied_operand,
)


@dataclass(frozen=True)
class Derivations(ProceduralSource):
    """Problems such as `7+5*3=` with a line for each operation: `7+5=2`, then `2*3=6`; modulo 10, the last digit.

    Its rows are for process reward models: solutions in steps with a label for each. In a share of them one line
    is wrong: miscalculated, or rightly calculated from a wrongly copied value or operand; the lines after it follow
    from what it says. Labels are 1 before the first error, 0 at it and after it, as a solution that holds an error
    is no longer right. Where a line is wrong is uniform. Conversations are right derivations, a line each; the
    reference of a problem is its value, a digit as text.

    Args:
        operands: Digits in a problem; a derivation has one line less.
        operations: Characters out of `+-*`; each place takes one of them at random.
        modulus: What values are taken modulo, and digits are below; small ones are far quicker to learn.
        wrong_share: Share of the rows with a planted error.
        train_size: Training problems, drawn with replacement; any number costs nothing.
        held_out_size: Problems in each of validation and test.
        held_out_share: Share of all problems that belongs to validation, and as much again to test, by a
            hash of the problem.
        seed: Of the draws; the split of a problem does not depend on it.
    """

    operands: int = 6
    operations: str = "+-*"
    modulus: int = 10
    wrong_share: float = 0.6
    train_size: int = 65_536
    held_out_size: int = 1024
    held_out_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.operands < 3:
            raise InputError(f"a derivation needs at least 3 operands, for 2 steps; got {self.operands}")
        if not self.operations or set(self.operations) - set(OPERATIONS):
            raise InputError(
                f"operations must be characters out of {''.join(OPERATIONS)}; got {self.operations!r}"
            )
        if not 2 <= self.modulus <= 10:
            raise InputError(f"modulus is from 2 to 10, as values are digits; got {self.modulus}")
        if not 0 <= self.wrong_share <= 1:
            raise InputError(f"wrong_share is a share from 0 to 1; got {self.wrong_share}")
        self.check()

    def draw(self, random: Random) -> Drawn:
        """One problem of the whole space, rightly worked."""
        chain = Chain.drawn(random, self.operands, self.operations, self.modulus)
        steps = chain.worked()
        return Drawn(f"{chain}=", STEP_END.join(map(str, steps)), str(steps[-1].value), str(chain))

    def rows(self, split: str) -> Sequence[StepwiseRow]:
        """The problems of the split, each with a derivation and labels; made when asked for."""
        check_split(split)
        size = self.train_size if split == "train" else self.held_out_size
        return Lazy(size, lambda index: self._row(split, index))

    def _row(self, split: str, index: int) -> StepwiseRow:
        drawn = self.drawn(split, index)
        chain = parse(drawn.key, self.modulus)
        random = Random(f"{self.seed}|{split}|{index}|error")
        steps, wrong = (
            planted(chain, random) if random.random() < self.wrong_share else (chain.worked(), None)
        )
        labels: list[float | None] = [float(wrong is None or i < wrong) for i in range(len(steps))]
        return StepwiseRow([{"role": "user", "content": drawn.text}], [str(step) for step in steps], labels)


def planted(chain: Chain, random: Random) -> tuple[list[Step], int]:
    """A derivation with one wrong line, and its number from 0."""
    wrong = random.randrange(len(chain))
    begin = chain.worked()[:wrong]
    left = begin[-1].value if begin else chain.digits[0]
    error = random.choice(ERRORS)(chain, wrong, left, random)
    return chain.worked([*begin, error]), wrong


def parse(text: str, modulus: int) -> Chain:
    """The inverse of `str(chain)`."""
    return Chain(tuple(map(int, text[::2])), tuple(text[1::2]), modulus)
