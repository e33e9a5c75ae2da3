"""The program of a worker process: answers requests, one JSON object a line, until its stdin ends.

    python -P worker_loop.py TASK.py PARENT_PID OPTIONS

It is started by path, and imports nothing of this package, so that a worker needs no torch. The task file
defines `prepare(options)`, which gives the function `answer(request, stage)` from request to reply. Calling
`stage(name)` reports progress and starts the CPU limit afresh. A limit on CPU time ends the process by
SIGPROF, which the kernel sends whatever the process is doing.
"""

import json
import os
import runpy
import select
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any


def main() -> None:
    """Prepares the task, says so, and serves."""
    task, parent, options = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    requests, replies = _take_pipes()

    def send(message: dict[str, Any]) -> None:
        _write_all(replies, json.dumps(message).encode() + b"\n")

    try:
        sys.path[:] = options.pop("path")
        limit = _cpu_limit(options.pop("cpu_s"))
        answer = runpy.run_path(task)["prepare"](options)
    except BaseException as error:  # whatever the task's imports raise, the parent shall know
        send({"failed": f"{type(error).__name__}: {error}"})
        return
    send({"ready": True})

    def stage(name: str) -> None:
        limit(True)
        send({"stage": name})

    for line in _lines(requests, parent):
        limit(True)
        reply = answer(json.loads(line), stage)
        limit(False)
        send({"reply": reply})


def _take_pipes() -> tuple[int, int]:
    """Moves the protocol off stdin and stdout, so that nothing a task reads or prints can disturb it."""
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return requests, replies


def _cpu_limit(seconds: float | None) -> Callable[[bool], None]:
    """A switch for the limit on CPU seconds."""
    if seconds is None:
        return lambda on: None
    signal.signal(signal.SIGPROF, signal.SIG_DFL)

    def switch(on: bool) -> None:
        signal.setitimer(signal.ITIMER_PROF, seconds if on else 0.0)

    return switch


def _lines(descriptor: int, parent: int) -> Iterator[bytes]:
    """Lines until the end of the pipe, or until the parent is gone."""
    held = b""
    while os.getppid() == parent:
        if not select.select([descriptor], [], [], 5.0)[0]:
            continue
        block = os.read(descriptor, 1 << 16)
        if not block:
            return
        *whole, held = (held + block).split(b"\n")
        yield from whole


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


if __name__ == "__main__":
    main()
