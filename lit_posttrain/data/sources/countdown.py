"""Reach a target number with given numbers."""

from dataclasses import dataclass
from random import Random

from lit_posttrain.data.sources.procedural import Drawn, ProceduralSource
from lit_posttrain.errors import InputError

PROMPT = (
    "Using the numbers {numbers}, write an expression that equals {target}. "
    "Use each number exactly once, with + - * / and parentheses."
)


@dataclass(frozen=True)
class Countdown(ProceduralSource):
    """Reach a target with + - * /, using each given number exactly once; every problem has a solution.

    A random expression is drawn and its value becomes the target; values on the way are integers and may be
    negative. Numbers in another order are the same problem, so both are in the same split. The reference is
    `{"numbers": [...], "target": n}`; many problems have several solutions, so check by evaluating.

    Args:
        numbers: How many numbers a problem may have; each problem takes one of these counts at random.
        max_number: Largest given number; the smallest is 1.
        min_target: Smallest target.
        max_target: Largest target.
        prompt: Text of the problem, with `{numbers}` (separated by commas) and `{target}`.
        train_size: Training problems, drawn with replacement; any number costs nothing.
        held_out_size: Problems in each of validation and test.
        held_out_share: Share of all problems that belongs to validation, and as much again to test, by a
            hash of the problem.
        seed: Of the draws; the split of a problem does not depend on it.
    """

    numbers: tuple[int, ...] = (3, 4)
    max_number: int = 99
    min_target: int = 10
    max_target: int = 100
    prompt: str = PROMPT
    train_size: int = 65_536
    held_out_size: int = 512
    held_out_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", tuple(self.numbers))
        if not self.numbers or min(self.numbers) < 2 or self.max_number < 1:
            raise InputError(f"a problem needs two numbers or more, of 1 or more each; got {self}")
        if self.min_target > self.max_target:
            raise InputError(f"min_target {self.min_target} is above max_target {self.max_target}")
        if "{numbers}" not in self.prompt or "{target}" not in self.prompt:
            raise InputError(f"the prompt must hold {{numbers}} and {{target}}; got {self.prompt!r}")
        self.check()

    def draw(self, random: Random) -> Drawn | None:
        """One problem, or None when the expression's value is no allowed target."""
        numbers = [random.randint(1, self.max_number) for _ in range(random.choice(self.numbers))]
        target, expression = _expression(numbers, random)
        if not self.min_target <= target <= self.max_target:
            return None
        random.shuffle(numbers)
        shown = ", ".join(map(str, numbers))
        text = self.prompt.replace("{numbers}", shown).replace("{target}", str(target))
        reference = {"numbers": numbers, "target": target}
        return Drawn(text, expression, reference, f"{sorted(numbers)} {target}")


def _expression(numbers: list[int], random: Random) -> tuple[int, str]:
    """The value and text of a random expression: two random terms are joined until one is left."""
    terms = [(number, str(number)) for number in numbers]
    while len(terms) > 1:
        left = terms.pop(random.randrange(len(terms)))
        right = terms.pop(random.randrange(len(terms)))
        terms.append(_joined(left, right, random))
    value, text = terms[0]
    return value, text[1:-1]


def _joined(left: tuple[int, str], right: tuple[int, str], random: Random) -> tuple[int, str]:
    """Two terms under a random operation; division only where it is exact."""
    (a, a_text), (b, b_text) = left, right
    divides = b != 0 and a % b == 0
    operation = random.choice("+-*/" if divides else "+-*")
    values = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if divides else 0}
    return values[operation], f"({a_text} {operation} {b_text})"
