"""Runs a prepared function in a forked child, so that one that had to be killed is replaced in milliseconds.

Imported by path in a worker process, where nothing else of this package is.
"""

import gc
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

ATTEMPTS = 3
REFUSED = ("os.", "subprocess.", "socket.", "ctypes.", "shutil.", "pty.", "urllib.", "tempfile.")
HARMLESS = ("os.listdir", "os.scandir")
OWN_FAULTS = (signal.SIGPROF, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS)

Stage = Callable[[str], None]
Answer = Callable[[Any, Stage], Any]


class ForkedTask:
    """A function from a request to a reply, run under limits in a child of this process.

    The child may neither start processes, open sockets nor write files: an audit hook refuses, and tells.

    Args:
        answer: The function; it is ready to run, and what it remembers lasts as long as its child.
        cpu_s: CPU seconds for each stage of a request; the kernel ends the child after them.
        memory_bytes: Private memory of the child (RLIMIT_DATA).
    """

    def __init__(self, answer: Answer, cpu_s: float, memory_bytes: int) -> None:
        self.answer, self.cpu_s, self.memory_bytes = answer, cpu_s, memory_bytes
        self.pid, self.requests, self.replies = 0, -1, -1
        self.refused = list[str]()
        gc.freeze()

    def __call__(self, request: Any, stage: Stage) -> dict[str, Any]:
        """`{"reply": ...}`, or `{"signal": number}` of what ended the child; other deaths are tried again."""
        number = 0
        for _ in range(ATTEMPTS):
            if not self.pid:
                self._fork()
            try:
                os.write(self.requests, json.dumps(request).encode() + b"\n")
                for message in _lines(self.replies):
                    if "reply" in message:
                        return message
                    self._note(message, stage)
            except BrokenPipeError:
                pass  # it died since the last request, as the next lines find
            number = self._bury()
            if number in OWN_FAULTS:
                break
        return {"signal": number}

    def _note(self, message: dict[str, Any], stage: Stage) -> None:
        if "stage" in message:
            stage(message["stage"])
        else:
            self.refused.append(message["refused"])

    def _fork(self) -> None:
        asked, self.requests = os.pipe()
        self.replies, told = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._serve(asked, told)
            finally:
                os._exit(0)
        os.close(asked)
        os.close(told)

    def _bury(self) -> int:
        """Waits for the end of the child, and gives the number of the signal that ended it, 0 for none."""
        _, status = os.waitpid(self.pid, 0)
        os.close(self.requests)
        os.close(self.replies)
        self.pid = 0
        return max(0, -os.waitstatus_to_exitcode(status))

    def _serve(self, asked: int, told: int) -> None:
        """The life of a child."""
        for first, end in ((3, min(asked, told)), (min(asked, told) + 1, max(asked, told))):
            os.closerange(first, end)
        os.closerange(max(asked, told) + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        _limit_data(self.memory_bytes)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)

        def tell(**message: Any) -> None:
            os.write(told, json.dumps(message).encode() + b"\n")

        def stage(name: str) -> None:
            signal.setitimer(signal.ITIMER_PROF, self.cpu_s)
            tell(stage=name)

        sys.addaudithook(lambda event, arguments: _audit(event, arguments, tell))
        for request in _lines(asked):
            signal.setitimer(signal.ITIMER_PROF, self.cpu_s)
            reply = self.answer(request, stage)
            signal.setitimer(signal.ITIMER_PROF, 0.0)
            tell(reply=reply)


def _lines(descriptor: int) -> Iterator[Any]:
    """Messages until the end of a pipe."""
    held = b""
    while block := os.read(descriptor, 1 << 16):
        *whole, held = (held + block).split(b"\n")
        yield from map(json.loads, whole)


def _limit_data(wanted: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _audit(event: str, arguments: tuple[Any, ...], tell: Callable[..., None]) -> None:
    """Refuses processes, sockets, foreign code and opening files to write, which no formula needs.

    Raises:
        PermissionError: for such an event, which is also told.
    """
    writes = event == "open" and (arguments[1] or "r").strip("bt") != "r"
    if writes or (event.startswith(REFUSED) and event not in HARMLESS):
        tell(refused=f"{event} {arguments!r}"[:200])
        raise PermissionError(event)
