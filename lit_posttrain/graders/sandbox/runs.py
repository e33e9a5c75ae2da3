"""Programs in child processes, whoever starts these: opened, run as scripts or as judges, with one retry elsewhere."""

from abc import abstractmethod
from collections.abc import Callable

from lit_posttrain.graders.sandbox.box import ChildBox, EndedBox, refusal, run_judge, run_script
from lit_posttrain.graders.sandbox.conversation import Child, SandboxFailure
from lit_posttrain.graders.sandbox.interface import Box, End, Limits, Question, Reply, Sandbox

MAX_NOTE = 200


class ProcessSandbox(Sandbox):
    """A sandbox that has a process of its own for each program."""

    @abstractmethod
    def spawn(self, limits: Limits, *, with_stdin: bool = False, waits: bool = True) -> Child:
        """Starts a confined process that runs `runner.serve`.

        Args:
            limits: What it may use.
            with_stdin: Whether it gets an input beside the channel.
            waits: Whether to wait for a free slot first.

        Raises:
            SandboxFailure: if it cannot be started.
            InputError: if this sandbox is refused here.
        """

    def open(self, source: str, limits: Limits) -> Box:
        """Puts a program in a box of its own; see `Sandbox`. Close the box: it holds a slot until then."""
        refused = refusal(source, limits)
        if refused is not None:
            return EndedBox(refused)

        def load() -> tuple[Reply, Box]:
            box = ChildBox(self.spawn(limits), source, limits)
            return box.loaded, box

        reply, box = _twice(load)
        return box if box is not None else EndedBox(reply)

    def script(self, source: str, stdin: bytes, limits: Limits) -> Reply:
        """Runs a program as `__main__`; see `Sandbox`."""
        refused = refusal(source, limits)
        if refused is not None:
            return refused
        return _twice(lambda: (run_script(self.spawn(limits, with_stdin=True), source, stdin, limits), None))[
            0
        ]

    def judge(self, tests: str, ask: Callable[[Question], Reply], limits: Limits) -> Reply:
        """Runs trusted test code; see `Sandbox`. Takes no slot: the program that it asks about has one.

        Not tried again, as questions may have been asked: SANDBOX_ERROR is for the caller to repeat with a new box.
        """
        refused = refusal(tests, limits)
        if refused is not None:
            return refused
        try:
            return run_judge(self.spawn(limits, waits=False), tests, ask, limits)
        except SandboxFailure as failure:
            return _failed(failure)


def _twice(attempt: Callable[[], tuple[Reply, Box | None]]) -> tuple[Reply, Box | None]:
    """Once more if the failure was ours."""
    reply = Reply(End.SANDBOX_ERROR)
    for _ in range(2):
        try:
            reply, box = attempt()
        except SandboxFailure as failure:
            reply, box = _failed(failure), None
        if reply.end is not End.SANDBOX_ERROR:
            return reply, box
        if box is not None:
            box.close()
    return reply, None


def _failed(failure: SandboxFailure) -> Reply:
    note = str(failure).strip()[-MAX_NOTE:].encode("ascii", "replace").decode()
    return Reply(End.SANDBOX_ERROR, error=type(failure).__name__, note=note)
