"""Grades mathematical answers: exact numbers here, symbolic ones by math-verify in worker processes."""

import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from lit_posttrain.batches import UNGRADED_VERDICTS, Completion, Grade, Problem, Verdict
from lit_posttrain.contracts import Grader
from lit_posttrain.errors import InputError
from lit_posttrain.graders.equivalence import Symbolic, compare, is_set, key, worst
from lit_posttrain.graders.extraction import answer_text, boxed, stated
from lit_posttrain.graders.notation import MAX_CHARACTERS, fault, simplify
from lit_posttrain.graders.single import bad_reference, decided, failed, ungraded
from lit_posttrain.graders.verdict_cache import NeedsWorker, VerdictCache
from lit_posttrain.graders.worker_pool import WorkerPool
from lit_posttrain.graders.worker_process import Outcome, Reply

MAX_BOXES = 4
PROBE = "7"
MAX_SPELLINGS = 32
MAX_TEXT = 4 * MAX_CHARACTERS
STARVATION = 5
TEXT_SIGNALS = (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS)


@dataclass(frozen=True)
class MathAnswer(Grader):
    r"""Correct when the stated answer is mathematically equal to the reference.

    The answer is the last balanced `\boxed{...}`, else the last stated one (`#### x`, `A: x`, `The answer is
    x`), else the last number; where the text has `</think>`, only what follows it counts. Several different
    boxed values are correct only if every one is, or if the reference is a set that they list.

    Integers and rationals are compared exactly in this process, lists element by element, the rest
    symbolically by math-verify in worker processes, which are killed when they take too long. Model text is
    never evaluated as code, and not parsed beyond 512 characters, 12 levels of nesting, 64 digits in a row,
    or powers and factorials of 10,000.

    The reference is a number or a text, LaTeX or plain; of a worked answer the boxed part or what follows
    `####`. One that cannot be used leaves the completion ungraded.

    Args:
        deadline_s: CPU seconds for parsing the reference, and again for parsing the answer and comparing.
            An answer that exceeds them is wrong (`timeout`); it is left ungraded if the machine was too busy
            to give them within five times as many seconds.
        workers: Worker processes, started at the first symbolic comparison.
        tolerance: Relative error allowed where the reference is written as a decimal.
        cache_size: Pairs of reference and answer whose verdict is remembered.
    """

    deadline_s: float = 2.0
    workers: int = 2
    tolerance: float = 1e-5
    cache_size: int = 65_536
    _pool: WorkerPool = field(init=False, repr=False, compare=False)
    _cache: VerdictCache = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.deadline_s <= 0 or self.workers < 1:
            raise InputError(f"got deadline_s={self.deadline_s}, workers={self.workers}; set > 0 and >= 1.")
        options = {"tolerance": self.tolerance}
        wall_s = STARVATION * self.deadline_s
        pool = WorkerPool("math_worker.py", self.workers, wall_s, cpu_s=self.deadline_s, options=options)
        object.__setattr__(self, "_pool", pool)
        object.__setattr__(self, "_cache", VerdictCache(self.cache_size))

    def grade(self, items: Sequence[tuple[Problem, Completion]]) -> list[Grade]:
        """One grade per item, in order; the answer key is the value in lowest terms, or the text."""
        pairs = [(_gold_text(problem.reference), completion.text) for problem, completion in items]
        grades = {pair: self._grade_here(*pair) for pair in dict.fromkeys(pairs)}
        waiting = [pair for pair, grade in grades.items() if grade is None]
        if waiting:
            with ThreadPoolExecutor(min(self.workers, len(waiting))) as threads:
                judged = threads.map(lambda pair: self._grade_one(pair[0], pair[1], self._ask), waiting)
                grades.update(zip(waiting, judged, strict=True))
        return [grade for pair in pairs if (grade := grades[pair]) is not None]

    def close(self) -> None:
        """Ends the worker processes; a later call starts new ones."""
        self._pool.close()

    def _grade_here(self, gold: str | None, text: str) -> Grade | None:
        """The grade, or None if it takes a worker."""
        try:
            return self._grade_one(gold, text, self._cache.known)
        except NeedsWorker:
            return None

    def _grade_one(self, gold: str | None, text: str, symbolic: Symbolic) -> Grade:
        if not gold:
            return bad_reference(gold or "", "a number or a text that states an answer")
        answers = _answers(text, is_set(gold))
        if not answers:
            return failed(Verdict.NO_ANSWER)
        if len(answers) > MAX_BOXES:
            return failed(Verdict.INCORRECT, f"{len(answers)} different boxed answers")
        verdict = worst([compare(gold, answer, symbolic, self.tolerance) for answer in answers])
        return _grade(verdict, answers)

    def _ask(self, gold: str, answer: str) -> Verdict:
        """The verdict of a worker on a simplified pair; remembered unless the failure is ours."""
        with suppress(NeedsWorker):
            return self._cache.known(gold, answer)
        if fault(gold) or fault(answer):
            return Verdict.GOLD_UNPARSEABLE if fault(gold) else Verdict.MALFORMED
        verdict = _verdict(self._pool.ask({"gold": gold, "answer": answer}))
        if verdict is Verdict.TIMEOUT and answer != PROBE and self._ask(gold, PROBE) is Verdict.TIMEOUT:
            verdict = Verdict.GOLD_TIMEOUT  # it takes as long for the simplest answer
        self._cache.remember(gold, answer, verdict)
        return verdict


def _answers(text: str, wants_set: bool) -> list[str]:
    """The simplified answers that must all be right, without repetition; empty if nothing is stated."""
    text = answer_text(text)
    found = list(dict.fromkeys(boxed(text))) or [stated(text) or ""]
    if len(found) > MAX_SPELLINGS:
        return found
    answers: dict[str, str] = {}
    for content in found:
        answer = simplify(content) if len(content) <= MAX_TEXT else content
        answers.setdefault(key(answer) if len(answer) <= MAX_TEXT else answer, answer)
    distinct = [answer for answer in answers.values() if answer]
    if wants_set and len(distinct) > 1 and not any("," in answer for answer in distinct):
        return [",".join(distinct)]
    return distinct


@lru_cache(maxsize=16_384)
def _simplified_gold(text: str) -> str:
    boxes = boxed(text)
    return simplify(boxes[-1] if boxes else text.rpartition("####")[2])


def _gold_text(reference: Any) -> str | None:
    """The simplified gold answer; None if the reference is no number and no text."""
    if isinstance(reference, bool) or not isinstance(reference, str | int | float):
        return None
    return _simplified_gold(str(reference))


def _verdict(reply: Reply) -> Verdict:
    """What became of a request, told apart by who caused it."""
    if reply.outcome is Outcome.ANSWERED:
        return Verdict(reply.value)
    if reply.outcome is Outcome.OVER_WALL:
        return Verdict.GRADER_TIMEOUT
    concerns_gold = reply.stage != "answer"
    if reply.outcome is Outcome.OVER_CPU:
        return Verdict.GOLD_TIMEOUT if concerns_gold else Verdict.TIMEOUT
    if reply.exit_code in TEXT_SIGNALS:
        return Verdict.GOLD_UNPARSEABLE if concerns_gold else Verdict.MALFORMED
    return Verdict.GRADER_ERROR


def _grade(verdict: Verdict, answers: Sequence[str]) -> Grade:
    if verdict in UNGRADED_VERDICTS:
        return ungraded(verdict)
    last = answers[-1]
    answer_key = key(last) if len(last) <= MAX_CHARACTERS else None
    if verdict in (Verdict.CORRECT, Verdict.INCORRECT):
        note = f"{len(answers)} different boxed answers" if len(answers) > 1 else ""
        return decided(verdict is Verdict.CORRECT, answer_key, note)
    return failed(verdict, fault(last), answer_key=answer_key)
