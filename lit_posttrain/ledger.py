"""What was spent: written by engines, networks and graders, read by everybody.

FLOPs are those of the matrix products that really run (a multiply-add is 2), recomputation included;
`causal_flops` counts attention as the lower triangle instead of the full square.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from enum import StrEnum


class Phase(StrEnum):
    """What the work was for. `EVALUATION` is metered but kept off the training axis."""

    ROLLOUT = "rollout"
    GRADING = "grading"
    SCORING = "scoring"
    UPDATE = "update"
    EVALUATION = "evaluation"


@dataclass
class Spent:
    """Totals of one phase: seconds of wall time, FLOPs, positions processed, tokens drawn and tokens trained."""

    seconds: float = 0.0
    flops: float = 0.0
    causal_flops: float = 0.0
    positions: int = 0
    generated_tokens: int = 0
    trained_tokens: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass
class Ledger:
    """One book per process, divided by phase.

    Work is booked under the innermost open `phase`; booking outside any phase is an error, so that nothing
    is spent unseen. Within `evaluation` inner phases stay evaluation: a probe's rollout is not training.
    """

    spent: dict[Phase, Spent] = field(default_factory=lambda: {phase: Spent() for phase in Phase})
    _open: list[Phase] = field(default_factory=list)

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Books the work and the wall time of the block under `phase`; inner blocks' time is theirs alone."""
        now = time.perf_counter()
        if self._open:
            self.spent[self._open[-1]].seconds += now - self._since
        inside = Phase.EVALUATION if Phase.EVALUATION in self._open else phase
        self._open.append(inside)
        self._since = now
        try:
            yield
        finally:
            now = time.perf_counter()
            self.spent[inside].seconds += now - self._since
            self._open.pop()
            self._since = now

    def add(
        self,
        *,
        flops: float = 0.0,
        causal_flops: float = 0.0,
        positions: int = 0,
        generated_tokens: int = 0,
        trained_tokens: int = 0,
    ) -> None:
        """Books work under the innermost open phase.

        Raises:
            RuntimeError: outside any phase.
        """
        if not self._open:
            raise RuntimeError(
                "work was booked outside any phase of the ledger; open one with ledger.phase(...)"
            )
        phase = self._open[-1]
        self.spent[phase] += Spent(0.0, flops, causal_flops, positions, generated_tokens, trained_tokens)

    def book(self, spent: Spent) -> None:
        """Books what was spent elsewhere, such as in another thread, under the innermost open phase.

        Its seconds are left out: the phase has its own.
        """
        work = {f.name: getattr(spent, f.name) for f in fields(spent) if f.name != "seconds"}
        if any(work.values()):
            self.add(**work)

    def count_trained(self, tokens: int) -> None:
        """Counts tokens that a loss speaks of; always of the update phase."""
        self.spent[Phase.UPDATE].trained_tokens += tokens

    @property
    def training(self) -> Spent:
        """Everything but evaluation."""
        total = Spent()
        for phase, spent in self.spent.items():
            if phase is not Phase.EVALUATION:
                total += spent
        return total

    def state_dict(self) -> dict[str, dict[str, float]]:
        """Plain numbers by phase."""
        return {phase.value: dict(vars(spent)) for phase, spent in self.spent.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """The inverse of `state_dict`."""
        self.spent = {phase: Spent(**state[phase.value]) for phase in Phase}  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        self._since = time.perf_counter()
