"""Runs a program against the tests of its problem, in boxes, and says how each test went."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from lit_posttrain.batches import Verdict
from lit_posttrain.graders.assertions import Assertion, NeedsJudge
from lit_posttrain.graders.code_suite import Example, Judged, Script, Suite, Test
from lit_posttrain.graders.comparison import same_text
from lit_posttrain.graders.sandbox.interface import Box, End, Limits, Question, Reference, Reply, Sandbox

VERDICTS = {
    End.RAISED: Verdict.RUNTIME_ERROR,
    End.DIED: Verdict.RUNTIME_ERROR,
    End.TIMEOUT: Verdict.TIMEOUT,
    End.MEMORY_LIMIT: Verdict.MEMORY_LIMIT,
    End.OUTPUT_LIMIT: Verdict.OUTPUT_LIMIT,
    End.PROTOCOL_ERROR: Verdict.PROTOCOL_ERROR,
    End.REJECTED: Verdict.REJECTED,
}
LEAST_WALL_S = 0.05


@dataclass(frozen=True)
class Finding:
    """How one test went."""

    verdict: Verdict
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the program did what the test asks."""
        return self.verdict is Verdict.PASS


class Outage(Exception):
    """The sandbox failed, not the program."""


class BrokenTests(Exception):
    """The tests cannot be run, whatever the program."""


@dataclass(frozen=True)
class Running:
    """How programs are run.

    Args:
        sandbox: Where.
        limits: What each box may use.
        isolate: One box for all tests of a program, or one for each test.
        deadline_s: Seconds for all tests of one program; the tests that are left then are timeouts.
    """

    sandbox: Sandbox
    limits: Limits
    isolate: Literal["program", "per_test"]
    deadline_s: float

    def findings(self, source: str, suite: Suite, tests: Sequence[Test]) -> list[Finding]:
        """One finding per test, in order.

        Raises:
            Outage: if the sandbox failed.
            BrokenTests: if a test cannot be run.
        """
        with _Boxes(self, source) as boxes:
            return [_finding(test, boxes, suite.prelude) for test in tests]

    def in_process(self, source: str, suite: Suite) -> Finding:
        """Protocol C: program and tests together, where the program can do as it likes with its tests.

        Raises:
            Outage: if the sandbox failed.
        """
        with _Boxes(self, "\n".join([source, *suite.texts])) as boxes:
            reply = boxes.box().get("__name__")
        return Finding(Verdict.PASS) if reply.end is End.RETURNED else _failure(reply)


class _Boxes:
    """The boxes of one program, opened when they are needed, within the time that all of them have."""

    def __init__(self, running: Running, source: str) -> None:
        self.running, self.source = running, source
        self.left_s = running.deadline_s
        self.current: Box | None = None
        self.since_s = 0.0

    def __enter__(self) -> "_Boxes":
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    def box(self) -> Box:
        """The box to use for the next test."""
        if self.current is None:
            self.since_s = time.monotonic()
            self.current = self.running.sandbox.open(self.source, self.limits())
        return self.current

    def next_test(self) -> None:
        """Gives the next test a box of its own, where each has one."""
        if self.running.isolate == "per_test":
            self.drop()

    def drop(self) -> None:
        """Closes the box and takes its time from what is left."""
        if self.current is not None:
            self.current.close()
            self.current = None
            self.left_s -= time.monotonic() - self.since_s

    def limits(self) -> Limits:
        """The limits of the next box."""
        wall_s = min(self.running.limits.wall_s, max(self.left_s, LEAST_WALL_S))
        return replace(self.running.limits, wall_s=wall_s)

    def script(self, stdin: bytes) -> Reply:
        """Runs the program on this input."""
        started_s = time.monotonic()
        reply = self.running.sandbox.script(self.source, stdin, self.limits())
        self.left_s -= time.monotonic() - started_s
        return reply

    def judge(self, text: str) -> Reply:
        """Runs test code that asks the program in its box."""
        box = self.box()
        limits = replace(self.running.limits, source_kib=len(text))  # our own text is never too long
        return self.running.sandbox.judge(text, lambda question: _answer(box, question), limits)


def _finding(test: Test, boxes: _Boxes, prelude: str) -> Finding:
    boxes.next_test()
    if boxes.left_s <= 0:
        return Finding(Verdict.TIMEOUT, f"more than {boxes.running.deadline_s:g} s for all tests")
    if isinstance(test, Script):
        return _scripted(test, boxes)
    if isinstance(test, Judged):
        return _judged(boxes.judge(f"{prelude}\n{test.text}"))
    return _called(test, boxes, prelude)


def _called(test: Example | Assertion, boxes: _Boxes, prelude: str) -> Finding:
    """Calls one after the other; the first that does not return decides."""
    answers: list[Any] = []
    for call in test.calls:
        reply = boxes.box().call(call.target, call.arguments, dict(call.keywords))
        if reply.end is not End.RETURNED:
            return _failure(reply)
        answers.append(reply.value)
    try:
        return (
            Finding(Verdict.PASS) if test.holds(answers) else Finding(Verdict.WRONG_ANSWER, _shown(answers))
        )
    except NeedsJudge:
        assert isinstance(test, Assertion)
        return _judged(boxes.judge(f"{prelude}\n{test.text}"))


def _shown(answers: Sequence[Any]) -> str:
    if answers and isinstance(answers[0], Reference):
        return f"an object of type {answers[0].kind} is no plain data"
    return ""


def _scripted(test: Script, boxes: _Boxes) -> Finding:
    reply = boxes.script(test.stdin)
    if reply.end is not End.RETURNED:
        return _failure(reply)
    if same_text(test.stdout, reply.printed, trims=test.trims):
        return Finding(Verdict.PASS)
    return Finding(Verdict.WRONG_ANSWER)


def _judged(reply: Reply) -> Finding:
    if reply.end is End.RETURNED:
        return Finding(Verdict.PASS)
    if reply.end is End.SANDBOX_ERROR and reply.error == "CannotAsk":
        raise BrokenTests(reply.note)
    if reply.end is End.RAISED and reply.error == "AssertionError":
        return Finding(Verdict.WRONG_ANSWER, reply.note)
    return _failure(reply)


def _failure(reply: Reply) -> Finding:
    if reply.end is End.SANDBOX_ERROR:
        raise Outage(f"{reply.error} {reply.note}".strip())
    return Finding(VERDICTS[reply.end], f"{reply.error}: {reply.note}" if reply.error else reply.note)


def _answer(box: Box, question: Question) -> Reply:
    ask: dict[str, Callable[[], Reply]] = {
        "call": lambda: box.call(
            question.target, question.arguments, question.keywords, keeps_objects=True, tells_arguments=True
        ),
        "get": lambda: box.get(question.target, question.name),
        "set": lambda: _set(box, question),
    }
    return ask[question.kind]()


def _set(box: Box, question: Question) -> Reply:
    assert isinstance(question.target, Reference)
    return box.set(question.target, question.name, question.arguments[0])
