"""Asks worker processes what only symbolic mathematics can tell, and remembers the replies."""

import signal
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from lit_posttrain.batches import Verdict
from lit_posttrain.errors import InputError
from lit_posttrain.graders.notation import fault
from lit_posttrain.graders.verdict_cache import NeedsWorker, ReplyCache, VerdictCache
from lit_posttrain.graders.worker_pool import WorkerPool
from lit_posttrain.graders.worker_process import Outcome, Reply

STARVATION = 15
TEXT_SIGNALS = (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS)
OPINION_CHARACTERS = 4_096
OUT_OF_MEMORY = "memory_limit"

T = TypeVar("T")


@dataclass(frozen=True)
class SymbolicJudge:
    """Comparisons, canonical forms and opinions of math-verify, from any thread.

    Args:
        deadline_s: CPU seconds for each stage of a request.
        workers: Worker processes, started at the first request.
        tolerance: Relative error allowed where the reference is written as a decimal.
        cache_size: Replies remembered, of each kind.
    """

    deadline_s: float = 0.6
    workers: int = 2
    tolerance: float = 1e-5
    cache_size: int = 65_536
    pool: WorkerPool = field(init=False, repr=False, compare=False)
    verdicts: VerdictCache = field(init=False, repr=False, compare=False)
    forms: ReplyCache[str | None] = field(init=False, repr=False, compare=False)
    opinions: ReplyCache[bool | None] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.deadline_s <= 0 or self.workers < 1 or self.cache_size < 1:
            given = f"deadline_s={self.deadline_s}, workers={self.workers}, cache_size={self.cache_size}"
            raise InputError(f"got {given}; set > 0, >= 1 and >= 1.")
        options = {"tolerance": self.tolerance, "deadline_s": self.deadline_s}
        pool = WorkerPool("math_worker.py", self.workers, STARVATION * self.deadline_s, options=options)
        object.__setattr__(self, "pool", pool)
        object.__setattr__(self, "verdicts", VerdictCache(self.cache_size))
        object.__setattr__(self, "forms", ReplyCache(self.cache_size))
        object.__setattr__(self, "opinions", ReplyCache(self.cache_size))

    def compare(self, gold: str, answer: str) -> Verdict:
        """The verdict on a simplified pair; remembered unless the failure is ours."""
        with suppress(NeedsWorker):
            return self.verdicts.known(gold, answer)
        if fault(gold) or fault(answer):
            return Verdict.GOLD_UNPARSEABLE if fault(gold) else Verdict.MALFORMED
        verdict = _verdict(self._ask({"task": "compare", "gold": gold, "answer": answer}))
        self.verdicts.remember(gold, answer, verdict)
        return verdict

    def form(self, answer: str) -> str | None:
        """The canonical form of a simplified answer; None where it has none within the limits."""
        if fault(answer):
            return None
        return self._remembered(self.forms, (answer,), {"task": "form", "answer": answer})

    def opinion(self, gold: str, text: str) -> bool | None:
        """Whether math-verify, with rules of its own, finds a text right; None if it does not say in time."""
        text = text[-OPINION_CHARACTERS:]
        return self._remembered(self.opinions, (gold, text), {"task": "opinion", "gold": gold, "text": text})

    def close(self) -> None:
        """Ends the worker processes; a later request starts new ones."""
        self.pool.close()

    def refused_acts(self) -> list[str]:
        """What audit hooks refused in one worker: file writes, processes, sockets; always empty so far."""
        return self._ask({"task": "audit"}).value

    def _ask(self, request: dict[str, str]) -> Reply:
        """The reply of a worker's child, or how that ended."""
        reply = self.pool.ask(request)
        if reply.outcome is not Outcome.ANSWERED:
            return reply
        if "reply" in reply.value:
            return Reply(Outcome.ANSWERED, reply.value["reply"], reply.stage)
        number = reply.value["signal"]
        outcome = Outcome.OVER_CPU if number == signal.SIGPROF else Outcome.DIED
        return Reply(outcome, None, reply.stage, -number)

    def _remembered(
        self, cache: "ReplyCache[T | None]", name: tuple[str, ...], request: dict[str, str]
    ) -> T | None:
        with suppress(NeedsWorker):
            return cache.known(name)
        reply = self._ask(request)
        value = reply.value if reply.outcome is Outcome.ANSWERED and reply.value != OUT_OF_MEMORY else None
        if reply.outcome is not Outcome.OVER_WALL:
            cache.remember(name, value)
        return value


def _verdict(reply: Reply) -> Verdict:
    """What became of a comparison, told apart by who caused it."""
    concerns_gold = reply.stage != "answer"
    if reply.outcome is Outcome.ANSWERED:
        if reply.value == OUT_OF_MEMORY and concerns_gold:
            return Verdict.GOLD_TIMEOUT
        return Verdict(reply.value)
    if reply.outcome is Outcome.OVER_WALL:
        return Verdict.GRADER_TIMEOUT
    if reply.outcome is Outcome.OVER_CPU:
        return Verdict.GOLD_TIMEOUT if concerns_gold else Verdict.TIMEOUT
    if reply.exit_code in TEXT_SIGNALS:
        return Verdict.GOLD_UNPARSEABLE if concerns_gold else Verdict.MALFORMED
    return Verdict.GRADER_ERROR


@dataclass(frozen=True)
class Remembered:
    """What a judge has in memory, asked in the same way.

    Args:
        judge: Whose memory.
    """

    judge: SymbolicJudge

    def compare(self, gold: str, answer: str) -> Verdict:
        """The remembered verdict.

        Raises:
            NeedsWorker: if there is none.
        """
        return self.judge.verdicts.known(gold, answer)

    def form(self, answer: str) -> str | None:
        """The remembered form.

        Raises:
            NeedsWorker: if there is none.
        """
        return self.judge.forms.known((answer,))
