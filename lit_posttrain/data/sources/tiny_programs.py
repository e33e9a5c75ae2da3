"""Write a one-line Python function from its description in words: programs that a small network can learn to write."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from lit_posttrain.data.sources.procedural import Drawn, ProceduralSource
from lit_posttrain.data.sources.splitting import digest
from lit_posttrain.errors import InputError

Inputs = tuple[int, int]

VERBS: dict[str, Callable[[int, int], int]] = {
    "plus": int.__add__,
    "minus": int.__sub__,
    "times": int.__mul__,
    "mod": int.__mod__,
    "max": max,
    "min": min,
}
SIGNS = {"plus": "+", "minus": "-", "times": "*", "mod": "%"}
BINDS_TIGHTLY = frozenset({"times", "mod"})
DIGITS = "23456789"
LARGEST_INPUT = 20
TRIED = (-17, -5, -2, 0, 1, 3, 8, 19)
FINGERPRINT: tuple[Inputs, ...] = tuple((x, y) for x in TRIED for y in TRIED)
"""Inputs whose values decide which functions are the same."""


@dataclass(frozen=True)
class Step:
    """One word of the description, and what it is applied with: `x`, `y` or a digit."""

    verb: str
    operand: str

    def apply(self, value: int, inputs: Inputs) -> int:
        """The value after this step."""
        return VERBS[self.verb](value, _read(self.operand, inputs))


@dataclass(frozen=True)
class Task:
    """A function of x and y: it starts with one of them and applies steps in turn."""

    start: str
    steps: tuple[Step, ...]

    def value(self, inputs: Inputs) -> int:
        """What the function gives."""
        value = _read(self.start, inputs)
        for step in self.steps:
            value = step.apply(value, inputs)
        return value

    def values(self, tests: Sequence[Inputs]) -> list[int]:
        """What it gives for each of the inputs."""
        return [self.value(inputs) for inputs in tests]

    def without(self, index: int) -> "Task":
        """The same without one step."""
        return Task(self.start, self.steps[:index] + self.steps[index + 1 :])

    @property
    def description(self) -> str:
        """Such as `x plus y, times 3`."""
        return f"{self.start} " + ", ".join(f"{step.verb} {step.operand}" for step in self.steps)

    @property
    def program(self) -> str:
        """Such as `def f(x,y):return(x+y)*3`, with no more parentheses than it takes."""
        text, is_sum = self.start, False
        for step in self.steps:
            text, is_sum = _joined(text, is_sum, step)
        return f"def f(x,y):return {text}"


@dataclass(frozen=True)
class TinyPrograms(ProceduralSource):
    """Problems such as `x plus y, times 3:` with the answer `def f(x,y):return (x+y)*3`.

    A task starts with x or y and applies steps from left to right: plus, minus, times, max and min with x, y or a
    digit, and mod with a digit. The reference is one of function tests, for `CodeTests`: `entry` is `f`, `tests` are
    hidden, `public` are the examples that the prompt shows, as in `x plus y, times 3; f(4,-1)=9:`. The inputs of
    the two are different. Leaving out any step would fail a hidden test, so none of them is there for show.

    **The split is decided by what the function computes**: tasks that give the same values on 64 fixed inputs are
    one task, however they are described, and stand in one split. So no held-out function was ever trained on.

    Args:
        steps: How many steps a task may have; each takes one of these counts at random.
        public_tests: Examples in the prompt; each makes it a good ten characters longer.
        hidden_tests: Inputs that the grader tries.
        train_size: Training problems, drawn with replacement; any number costs nothing.
        held_out_size: Problems in each of validation and test.
        held_out_share: Share of all functions that belongs to validation, and as much again to test.
        seed: Of the draws; the split of a problem does not depend on it.
    """

    steps: tuple[int, ...] = (2, 3)
    public_tests: int = 0
    hidden_tests: int = 6
    train_size: int = 16_384
    held_out_size: int = 512
    held_out_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        if not self.steps or min(self.steps) < 1:
            raise InputError(f"a task needs one step or more; got steps={self.steps}")
        if self.public_tests < 0 or self.hidden_tests < 1:
            raise InputError(
                "a task needs public_tests >= 0 and hidden_tests >= 1; "
                f"got {self.public_tests} and {self.hidden_tests}"
            )
        self.check()

    def draw(self, random: Random) -> Drawn | None:
        """One problem, or None where the hidden tests would not miss one of its steps."""
        task = Task(random.choice("xy"), tuple(_step(random) for _ in range(random.choice(self.steps))))
        tests = _inputs(random, self.public_tests + self.hidden_tests)
        shown, hidden = tests[: self.public_tests], tests[self.public_tests :]
        if not is_needed_throughout(task, hidden):
            return None
        examples = "".join(f"; f({x},{y})={task.value((x, y))}" for x, y in shown)
        reference = {
            "kind": "function",
            "entry": "f",
            "tests": _cases(task, hidden),
            "public": _cases(task, shown),
        }
        return Drawn(f"{task.description}{examples}:", task.program, reference, key_of(task))


def key_of(task: Task) -> str:
    """What decides the split: alike for all tasks that compute the same."""
    return digest(str(task.values(FINGERPRINT)))


def is_needed_throughout(task: Task, tests: Sequence[Inputs]) -> bool:
    """Whether each step changes the value for one of the inputs."""
    expected = task.values(tests)
    return all(task.without(index).values(tests) != expected for index in range(len(task.steps)))


def _read(name: str, inputs: Inputs) -> int:
    return inputs["xy".index(name)] if name in "xy" else int(name)


def _step(random: Random) -> Step:
    verb = random.choice(list(VERBS))
    return Step(verb, random.choice(DIGITS if verb == "mod" else "xy" + DIGITS))


def _joined(text: str, is_sum: bool, step: Step) -> tuple[str, bool]:
    """The expression after a step, and whether it is a sum, which a product would tear apart."""
    if step.verb not in SIGNS:
        return f"{step.verb}({text},{step.operand})", False
    left = f"({text})" if is_sum and step.verb in BINDS_TIGHTLY else text
    return f"{left}{SIGNS[step.verb]}{step.operand}", step.verb not in BINDS_TIGHTLY


def _inputs(random: Random, count: int) -> list[Inputs]:
    """Different pairs of numbers."""
    width = 2 * LARGEST_INPUT + 1
    places = random.sample(range(width * width), count)
    return [(place // width - LARGEST_INPUT, place % width - LARGEST_INPUT) for place in places]


def _cases(task: Task, tests: Sequence[Inputs]) -> list[dict[str, object]]:
    return [{"args": [x, y], "expected": task.value((x, y))} for x, y in tests]
