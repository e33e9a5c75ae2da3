"""The first wrong step of a solution by halving, with rollouts behind few of its steps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from lit_posttrain.errors import InputError
from lit_posttrain.rollouts.step_labels import StepRollouts
from lit_posttrain.rollouts.step_values import Solution


class Finding(StrEnum):
    """What a search found. `too_hard`: no rollout from the prompt is right; `ungraded`: a beginning has no grades."""

    ERROR = "error"
    NO_ERROR = "no_error"
    TOO_HARD = "too_hard"
    UNGRADED = "ungraded"


@dataclass(frozen=True)
class FirstError:
    """The result for one solution: `step` is the number of the first wrong step, from 0, where one was found."""

    finding: Finding
    steps: int
    step: int | None = None

    @property
    def labels(self) -> list[float | None]:
        """1 before the first error, 0 at it, None after it; all 1 without error, all None where nothing is known."""
        if self.finding is Finding.NO_ERROR:
            return [1.0] * self.steps
        if self.step is None:
            return [None] * self.steps
        return [*[1.0] * self.step, 0.0, *[None] * (self.steps - self.step - 1)]


@dataclass(frozen=True)
class _Search:
    """After `fine` steps a rollout was right, after `hopeless` ones none was; they begin outside of what there is."""

    solution: Solution
    fine: int
    hopeless: int

    @property
    def middle(self) -> int | None:
        """Where to look next; 0, the prompt, once the first step is what is wrong; None at the end."""
        low = max(self.fine, 0)
        if self.hopeless - low > 1:
            return (low + self.hopeless) // 2
        return 0 if self.fine < 0 < self.hopeless else None


def first_errors(rollouts: StepRollouts, solutions: Sequence[Solution]) -> list[FirstError]:
    """The first wrong step of each solution, by halving: about log2(steps) + 1 beginnings of each are gone on from.

    A beginning is fine when one rollout of n behind it is right. A step after which none is counts as wrong, as
    does every later one: the search takes it that nobody recovers from an error, and misses errors that do not
    change the answer. Where already the first step is hopeless the prompt is tried as well, since the problem may
    simply be too hard. All solutions are searched side by side.

    Source: Luo et al. 2024 (OmegaPRM), arXiv:2406.06592, section 3.2.

    Raises:
        InputError: for a solution without steps.
    """
    if any(not solution.steps for solution in solutions):
        raise InputError("a solution without steps has no first error; leave it out")
    searches = [_Search(solution, -1, len(solution.steps) + 1) for solution in solutions]
    found: dict[int, FirstError] = {}
    looked = {i: len(solution.steps) for i, solution in enumerate(solutions)}
    while looked:
        values = rollouts.values([(solutions[i], k) for i, k in looked.items()])
        for (i, k), value in zip(looked.items(), values, strict=True):
            if value.graded:
                searches[i] = replace(searches[i], **{"fine" if value.correct else "hopeless": k})
            if not value.graded or searches[i].middle is None:
                found[i] = _result(searches[i]) if value.graded else _ungraded(searches[i])
        looked = {i: k for i in looked if i not in found and (k := searches[i].middle) is not None}
    return [found[i] for i in range(len(solutions))]


def _result(search: _Search) -> FirstError:
    steps = len(search.solution.steps)
    if search.fine == steps:
        return FirstError(Finding.NO_ERROR, steps)
    if search.fine < 0:
        return FirstError(Finding.TOO_HARD, steps)
    return FirstError(Finding.ERROR, steps, search.fine)


def _ungraded(search: _Search) -> FirstError:
    return FirstError(Finding.UNGRADED, len(search.solution.steps))
