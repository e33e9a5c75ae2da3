"""Which trials are made: where each run is killed, spread over all of its phases."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from kill_resume.announce import Target

TWICE = 3
"""Every so many trials are killed twice."""
SECOND = 0.3
"""The second kill comes within this part of the occurrences of a whole run, as less is left to run."""


@dataclass(frozen=True)
class Plan:
    """What becomes of the processes of a trial in turn, before one is let live.

    `kills` are targets, or seconds after the start where the console command is run.
    """

    method: str
    number: int
    kills: tuple[Target | float, ...]

    @property
    def console(self) -> bool:
        """Whether the console command is run, which announces nothing."""
        return isinstance(self.kills[0], float)

    @property
    def title(self) -> str:
        """The phase of the first kill."""
        first = self.kills[0]
        return first.phase if isinstance(first, Target) else "any moment"


@dataclass(frozen=True)
class Timing:
    """What the undisturbed run tells of: how often each phase came, its mean length, and seconds of the run.

    Of a run by the console command only the last is known.
    """

    counts: dict[str, int]
    mean_s: dict[str, float]
    run_s: float


def plans(method: str, number: int, timing: Timing, draw: random.Random) -> Iterator[Plan]:
    """So many trials, spread over all phases; every third run is killed twice."""
    phases = sorted(timing.counts)
    draw.shuffle(phases)
    for index in range(number):
        twice = index % TWICE == TWICE - 1
        if not phases:
            yield Plan(method, index, tuple(moment(timing, draw) for _ in range(1 + twice)))
            continue
        kills = [target(phases[index % len(phases)], timing, draw)]
        if twice:
            kills.append(target(draw.choice(["start", "checkpoint: read", *phases]), timing, draw, SECOND))
        yield Plan(method, index, tuple(kills))


def target(phase: str, timing: Timing, draw: random.Random, part: float = 1.0) -> Target:
    """A random occurrence in the first `part` of a phase's, and a random moment within it."""
    most = max(1, round(part * timing.counts.get(phase, 8)))
    return Target(phase, draw.randint(1, most), draw.uniform(0, timing.mean_s.get(phase, 0.0)))


def moment(timing: Timing, draw: random.Random) -> float:
    """A random moment of a run by the console command."""
    return draw.uniform(0.2, 1.0) * timing.run_s
