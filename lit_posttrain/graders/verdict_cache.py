"""Remembers what workers replied, so that equal answers are judged once."""

import threading
from collections import OrderedDict
from typing import Any, Generic, TypeVar

from lit_posttrain.batches import OUTAGE_VERDICTS, UNGRADED_VERDICTS, Verdict

T = TypeVar("T")


class NeedsWorker(Exception):
    """Only a worker can tell."""


class ReplyCache(Generic[T]):
    """Replies by the texts they are about, the oldest forgotten first; usable from any thread."""

    def __init__(self, size: int) -> None:
        self.size, self.lock = size, threading.Lock()
        self.replies: OrderedDict[tuple[str, ...], T] = OrderedDict()

    def known(self, name: tuple[str, ...]) -> T:
        """The remembered reply.

        Raises:
            NeedsWorker: if there is none.
        """
        with self.lock:
            if name not in self.replies:
                raise NeedsWorker
            return self.replies[name]

    def remember(self, name: tuple[str, ...], reply: T) -> None:
        """Keeps a reply, and forgets the oldest where there are too many."""
        with self.lock:
            self.replies[name] = reply
            if len(self.replies) > self.size:
                self.replies.popitem(last=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.size,)


class VerdictCache:
    """Symbolic verdicts by (gold, answer); one on the gold answer itself holds for every answer to it."""

    def __init__(self, size: int) -> None:
        self.on_gold, self.on_pairs = ReplyCache[Verdict](size), ReplyCache[Verdict](size)

    def known(self, gold: str, answer: str) -> Verdict:
        """The remembered verdict.

        Raises:
            NeedsWorker: if there is none.
        """
        try:
            return self.on_pairs.known((gold, answer))
        except NeedsWorker:
            return self.on_gold.known((gold,))

    def remember(self, gold: str, answer: str, verdict: Verdict) -> None:
        """Keeps a verdict, unless it says only that the grader failed this time."""
        if verdict in OUTAGE_VERDICTS:
            return
        if verdict in UNGRADED_VERDICTS:
            self.on_gold.remember((gold,), verdict)
        else:
            self.on_pairs.remember((gold, answer), verdict)

    def __reduce__(self) -> tuple[Any, ...]:
        return VerdictCache, (self.on_pairs.size,)
