"""Grades programs by tests that they cannot reach: what they return is compared outside of their box."""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from lit_posttrain.batches import UNGRADED_VERDICTS, Completion, Grade, Problem, Verdict
from lit_posttrain.contracts import Grader
from lit_posttrain.errors import InputError
from lit_posttrain.graders.code_running import BrokenTests, Finding, Outage, Running
from lit_posttrain.graders.code_suite import Suite, suite_of
from lit_posttrain.graders.program_text import continued, program_text
from lit_posttrain.graders.sandbox.box import short
from lit_posttrain.graders.sandbox.interface import Limits, Sandbox
from lit_posttrain.graders.sandbox.local import LocalSandbox
from lit_posttrain.graders.single import ungraded

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 0.5


@dataclass(frozen=True)
class CodeTests(Grader):
    """Correct when the program of a completion passes all hidden tests of its problem.

    The program runs in a sandbox and never sees an expected value: it is called with plain data, or run on an
    input, and what comes out is compared here. Test code that cannot be written so is run in a box of its own,
    where the program's functions are asked for from afar. See `suite_of` for the references of problems, and
    `program_text` for which part of a completion is the program.

    What the program causes is its own fault and gets the lowest reward; a sandbox that fails is asked again, and
    then leaves the completion ungraded, as does a reference that cannot be used.

    Args:
        sandbox: Where programs run.
        limits: What each may use, over all of its tests.
        isolate: `program` runs all tests of a program in one box; `per_test` gives each test a fresh one, so that
            nothing is remembered between tests.
        partial: Whether the reward is the share of tests passed, instead of all or nothing.
        public_weight: Share of the reward that the public tests decide on; 0 leaves it to the hidden ones.
        continues_prompt: Whether completions go on where the prompt of a `check` problem ends, as those of base
            models; else they stand by themselves, after the prompt.
        in_process_tests: Run assert-style tests together with the program, which can then cheat: for tests that
            can be run in no other way. Such grades say `weak_integrity` in their parts.
        deadline_s: Seconds for all tests of one program.
        patience_s: Seconds for which a sandbox that fails is asked again.
        workers: Programs that are graded side by side.
        cache_size: Programs whose grade is remembered.
    """

    sandbox: Sandbox = field(default_factory=LocalSandbox)
    limits: Limits = field(default_factory=Limits)
    isolate: Literal["program", "per_test"] = "program"
    partial: bool = False
    public_weight: float = 0.0
    continues_prompt: bool = False
    in_process_tests: bool = False
    deadline_s: float = 30.0
    patience_s: float = 20.0
    workers: int = 4
    cache_size: int = 65_536
    _cache: "GradeCache" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.isolate not in ("program", "per_test"):
            raise InputError(f"isolate={self.isolate!r} is unknown; choose program or per_test")
        if min(self.deadline_s, self.workers) <= 0 or min(self.patience_s, self.cache_size) < 0:
            raise InputError(
                f"got deadline_s={self.deadline_s}, workers={self.workers}, patience_s={self.patience_s}, "
                f"cache_size={self.cache_size}; "
                "set > 0, >= 1, >= 0 and >= 0"
            )
        if not 0 <= self.public_weight < 1:
            raise InputError(f"public_weight is a share in [0, 1); got {self.public_weight}")
        object.__setattr__(self, "_cache", GradeCache(self.cache_size))

    def grade(self, items: Sequence[tuple[Problem, Completion]]) -> list[Grade]:
        """One grade per item, in order; the same program for the same tests is run once."""
        keys = [_key(problem.reference, completion.text) for problem, completion in items]
        first = dict(zip(reversed(keys), reversed(items), strict=True))
        known = {key: grade for key in first if (grade := self._cache.known(key)) is not None}
        waiting = [key for key in dict.fromkeys(keys) if key not in known]
        if len(waiting) == 1:  # a thread of its own would cost a tenth of a quick grade
            known[waiting[0]] = self._remembered(waiting[0], first[waiting[0]])
        elif waiting:
            with ThreadPoolExecutor(min(self.workers, len(waiting))) as threads:
                graded = threads.map(lambda key: self._remembered(key, first[key]), waiting)
                known.update(zip(waiting, graded, strict=True))
        return [known[key] for key in keys]

    def close(self) -> None:
        """Ends the sandbox's processes; a later call starts new ones."""
        self.sandbox.close()

    def _remembered(self, key: bytes, item: tuple[Problem, Completion]) -> Grade:
        return self._cache.remember(key, self._grade_one(item[0].reference, item[1].text))

    def _grade_one(self, reference: Any, text: str) -> Grade:
        try:
            suite = suite_of(reference)
        except InputError as error:
            return ungraded(Verdict.GOLD_UNPARSEABLE, short(str(error)))
        source = self._program(text, suite)
        if source is None:
            return Grade(self.lowest, False, Verdict.REJECTED, note="no code")
        try:
            return self._judge_patiently(source, suite)
        except BrokenTests as error:
            return ungraded(Verdict.GOLD_UNPARSEABLE, short(str(error)))
        except Outage as error:
            return ungraded(Verdict.SANDBOX_ERROR, short(str(error)))
        except InputError:  # the sandbox is refused here: the run must not go on
            raise
        except Exception as error:  # no program should be able to cause one
            return ungraded(Verdict.GRADER_ERROR, short(f"{type(error).__name__}: {error}"))

    def _judge_patiently(self, source: str, suite: Suite) -> Grade:
        """Asks a sandbox that fails again, after longer and longer pauses."""
        gives_up_at, pause_s = time.monotonic() + self.patience_s, SHORTEST_PAUSE_S
        while True:
            try:
                return self._judge(source, suite)
            except Outage:
                if time.monotonic() + pause_s > gives_up_at:
                    raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _program(self, text: str, suite: Suite) -> str | None:
        if suite.prompt is None:
            return program_text(text, suite.entry)
        if self.continues_prompt:
            return continued(suite.prompt, text)
        program = program_text(text, suite.entry) or program_text(text)
        return None if program is None else f"{suite.prompt}\n{program}"

    def _judge(self, source: str, suite: Suite) -> Grade:
        running = Running(self.sandbox, self.limits, self.isolate, self.deadline_s)
        if self.in_process_tests and suite.texts:
            finding = running.in_process(source, suite)
            return self._graded([finding], [], {"weak_integrity": 1.0}, "integrity: weak")
        findings = running.findings(source, suite, [*suite.public, *suite.hidden])
        public, hidden = findings[: len(suite.public)], findings[len(suite.public) :]
        return self._graded(hidden, public, {"weak_integrity": 0.0} if self.in_process_tests else {})

    def _graded(
        self, hidden: list[Finding], public: list[Finding], parts: dict[str, float], note: str = ""
    ) -> Grade:
        fractions = {"hidden_fraction": _share(hidden)} | (
            {"public_fraction": _share(public)} if public else {}
        )
        failed = next((finding for finding in hidden if not finding.passed), None)
        verdict = failed.verdict if failed else Verdict.PASS
        rewarded = {"hidden_fraction": fractions["hidden_fraction"], "public_fraction": 1.0} | fractions
        if not self.partial:
            rewarded = {name: float(share == 1.0) for name, share in rewarded.items()}
        weight = self.public_weight if public else 0.0
        reward = (1 - weight) * rewarded["hidden_fraction"] + weight * rewarded["public_fraction"]
        notes = [note, failed.note if failed else ""]
        return Grade(
            reward, failed is None, verdict, fractions | parts, note=short("; ".join(filter(None, notes)))
        )


class GradeCache:
    """Grades by content of program, tests and settings, the oldest forgotten first; usable from any thread.

    Args:
        size: How many.
    """

    def __init__(self, size: int) -> None:
        self.size, self.lock = size, threading.Lock()
        self.grades: OrderedDict[bytes, Grade] = OrderedDict()

    def known(self, key: bytes) -> Grade | None:
        """The remembered grade, or None."""
        with self.lock:
            return self.grades.get(key)

    def remember(self, key: bytes, grade: Grade) -> Grade:
        """Keeps a grade, unless nothing could be said about the program; returns it.

        Timeouts are not kept either: a busy machine may have caused one.
        """
        if grade.verdict not in UNGRADED_VERDICTS | {Verdict.TIMEOUT}:
            with self.lock:
                self.grades[key] = grade
                if len(self.grades) > self.size:
                    self.grades.popitem(last=False)
        return grade

    def __reduce__(self) -> tuple[Any, ...]:
        return GradeCache, (self.size,)


def _key(reference: Any, text: str) -> bytes:
    content = f"{reference!r}\n{text}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=16).digest()


def _share(findings: Sequence[Finding]) -> float:
    return sum(finding.passed for finding in findings) / len(findings)
