"""What a run tells the one that will kill it: the phase that it is in.

A *span* (a rollout, a checkpoint) is announced when it begins and goes on; at a *point* (before a call that
changes a file, say) the run waits to be killed, so that it dies exactly there.
"""

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EVENTS = "events.jsonl"
LONGEST_WAIT_S = 60.0


@dataclass(frozen=True)
class Target:
    """Where to die: the `occurrence`-th (from 1) of a phase, `delay_s` seconds after it began."""

    phase: str
    occurrence: int
    delay_s: float = 0.0


class Announcer:
    """Counts and times phases, and calls out when the target is reached.

    Args:
        target: Where the run is to be killed; None lets it live.
        pipe: File descriptor on which reaching the target is called out.
        events: The file that batches and clocks are noted in.
    """

    def __init__(self, target: Target | None, pipe: int, events: Path) -> None:
        self.target, self.pipe = target, pipe
        self.events = os.open(events, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.counts: dict[str, int] = defaultdict(int)
        self.seconds: dict[str, float] = defaultdict(float)
        self._began: dict[str, float] = {}

    def reach(self, phase: str, *, wait: bool) -> None:
        """Counts an occurrence; at the target calls out, and waits for the end if asked to."""
        self.counts[phase] += 1
        if self.target is None or (phase, self.counts[phase]) != (self.target.phase, self.target.occurrence):
            return
        os.write(self.pipe, b"!")
        if wait:
            time.sleep(LONGEST_WAIT_S)

    def point(self, phase: str) -> None:
        """A moment."""
        self.reach(phase, wait=True)

    @contextmanager
    def span(self, phase: str) -> Iterator[None]:
        """A stretch of time."""
        self.begin(phase)
        started = self._began[phase]
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - started

    def begin(self, phase: str) -> None:
        """A stretch of time that `end` ends; one of its kind at a time."""
        self.reach(phase, wait=False)
        self._began[phase] = time.perf_counter()

    def end(self, phase: str) -> None:
        """The end of what `begin` began; again, or without it: nothing."""
        if phase in self._began:
            self.seconds[phase] += time.perf_counter() - self._began.pop(phase)

    def note(self, kind: str, **values: Any) -> None:
        """One line of the events, whole even if this process dies right after."""
        os.write(self.events, json.dumps({"kind": kind, "pid": os.getpid(), **values}).encode() + b"\n")
