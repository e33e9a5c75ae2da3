"""Remembers symbolic verdicts, so that equal answers are judged once."""

import threading
from collections import OrderedDict
from typing import Any

from lit_posttrain.batches import UNGRADED_VERDICTS, Verdict


class NeedsWorker(Exception):
    """Only a symbolic comparison can decide."""


class VerdictCache:
    """Symbolic verdicts by (gold, answer), the oldest forgotten first; usable from any thread."""

    def __init__(self, size: int) -> None:
        self.size, self.lock = size, threading.Lock()
        self.verdicts: OrderedDict[tuple[str, str], Verdict] = OrderedDict()

    def known(self, gold: str, answer: str) -> Verdict:
        """The remembered verdict.

        Raises:
            NeedsWorker: if there is none.
        """
        with self.lock:
            verdict = self.verdicts.get((gold, "")) or self.verdicts.get((gold, answer))
        if verdict is None:
            raise NeedsWorker
        return verdict

    def remember(self, gold: str, answer: str, verdict: Verdict) -> None:
        """Keeps a verdict; one on the gold answer itself holds for every answer to it."""
        if verdict in (Verdict.GRADER_ERROR, Verdict.GRADER_TIMEOUT):
            return
        with self.lock:
            self.verdicts[gold, "" if verdict in UNGRADED_VERDICTS else answer] = verdict
            if len(self.verdicts) > self.size:
                self.verdicts.popitem(last=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return VerdictCache, (self.size,)
