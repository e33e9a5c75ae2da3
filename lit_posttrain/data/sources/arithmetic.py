"""Sums, differences and products of random numbers."""

from dataclasses import dataclass
from random import Random

from lit_posttrain.data.sources.procedural import Drawn, ProceduralSource
from lit_posttrain.errors import InputError

OPERATIONS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
COMMUTATIVE = "+*"


@dataclass(frozen=True)
class Arithmetic(ProceduralSource):
    """Problems such as `12+345=` with the answer `357`; the reference is the answer as text.

    The digit count of each operand is uniform from `min_digits` to `digits`, its value uniform among those. Since `a+b`
    and `b+a` are one problem to a learner, both are in the same split. Held-out problems are distinct, so
    small operands, of which there are few pairs, are rarer there than in training.

    Args:
        digits: Most digits of an operand.
        min_digits: Fewest digits of an operand.
        zero_padded: Write operands with `digits` digits and answers with all that they could have, as in
            `012+345=0357`: columns then stand in fixed places, which small networks learn several times faster.
        operations: Characters out of `+-*`; each problem takes one of them at random.
        train_size: Training problems, drawn with replacement; any number costs nothing.
        held_out_size: Problems in each of validation and test.
        held_out_share: Share of all problems that belongs to validation, and as much again to test, by a
            hash of the problem.
        seed: Of the draws; the split of a problem does not depend on it.
    """

    digits: int = 3
    operations: str = "+"
    train_size: int = 65_536
    held_out_size: int = 1024
    held_out_share: float = 0.1
    seed: int = 0
    min_digits: int = 1
    zero_padded: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.min_digits <= self.digits:
            raise InputError(
                "operands need at least one digit and min_digits <= digits; "
                f"got min_digits={self.min_digits}, digits={self.digits}"
            )
        if not self.operations or set(self.operations) - set(OPERATIONS):
            raise InputError(
                f"operations must be characters out of {''.join(OPERATIONS)}; got {self.operations!r}"
            )
        self.check()

    def draw(self, random: Random) -> Drawn:
        """One problem of the whole space."""
        left, right = self._operand(random), self._operand(random)
        operation = random.choice(self.operations)
        value = OPERATIONS[operation](left, right)
        if self.zero_padded:
            text = f"{left:0{self.digits}d}{operation}{right:0{self.digits}d}="
            answer = "-" * (value < 0) + str(abs(value)).zfill(len(str(self._largest(operation))))
        else:
            text, answer = f"{left}{operation}{right}=", str(value)
        return Drawn(text, answer, answer, canonical(left, operation, right))

    def _largest(self, operation: str) -> int:
        largest = 10**self.digits - 1
        return OPERATIONS[operation](largest, 0 if operation == "-" else largest)

    def _operand(self, random: Random) -> int:
        digits = random.randint(self.min_digits, self.digits)
        return random.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)


def canonical(left: int, operation: str, right: int) -> str:
    """The text that decides the split; alike for a problem and its twin with the operands exchanged."""
    if operation in COMMUTATIVE:
        left, right = min(left, right), max(left, right)
    return f"{left}{operation}{right}"
