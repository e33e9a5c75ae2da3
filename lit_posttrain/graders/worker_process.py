"""One worker process: its start, its two pipes, its end."""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
START_LIMIT_S = 120.0


class Outcome(StrEnum):
    """How a request ended: with a reply, over its CPU or wall limit, or with the death of its workers."""

    ANSWERED = "answered"
    OVER_CPU = "over_cpu"
    OVER_WALL = "over_wall"
    DIED = "died"


@dataclass(frozen=True)
class Reply:
    """The task's reply, the last stage it reported, and the exit code if the worker ended."""

    outcome: Outcome
    value: Any = None
    stage: str = ""
    exit_code: int | None = None


class WorkerStartError(RuntimeError):
    """A worker process could not be started; the message says why."""


class WorkerProcess:
    """One process and its two pipes."""

    def __init__(self, task: str, options: Mapping[str, Any], quiet: bool) -> None:
        arguments = [str(HERE / task), str(os.getpid()), json.dumps(options)]
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(HERE / "worker_loop.py"), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None,
            start_new_session=True,  # Ctrl-C is the parent's business; a kill reaches what the task started
            bufsize=0,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.held = b""
        self.is_alive, self.ending = True, threading.Lock()

    def wait_ready(self) -> None:
        message = self._read(time.monotonic() + START_LIMIT_S)
        if message is None or "ready" not in message:
            self.kill()
            reason = (
                f"took more than {START_LIMIT_S} s"
                if message is None
                else message.get("failed", "ended at once")
            )
            raise WorkerStartError(f"the worker process of this grader did not start: {reason}")

    def exchange(self, line: bytes, wall_s: float) -> Reply:
        stage, stops_at = "", time.monotonic() + wall_s
        with suppress(BrokenPipeError):
            self._write(line)
        while message := self._read(stops_at):
            if "reply" in message:
                return Reply(Outcome.ANSWERED, message["reply"], stage)
            stage = message["stage"]
        if message is None:
            self.kill()
            return Reply(Outcome.OVER_WALL, stage=stage, exit_code=self.process.returncode)
        self.kill()
        over_cpu = self.process.returncode == -signal.SIGPROF
        return Reply(Outcome.OVER_CPU if over_cpu else Outcome.DIED, None, stage, self.process.returncode)

    def kill(self) -> None:
        """Ends the process and all that it started."""
        with self.ending:
            if not self.is_alive:
                return
            self.is_alive = False
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.stdin.close()
            self.stdout.close()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self.stdin.write(view) :]

    def _read(self, stops_at: float) -> dict[str, Any] | None:
        """The next message; None when time is up, empty when the process has closed its pipe."""
        poll = select.poll()
        with suppress(ValueError):  # closed by another thread: reads as the end below
            poll.register(self.stdout, select.POLLIN)
        while b"\n" not in self.held:
            left_s = stops_at - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000):
                return None
            block = os.read(self.stdout.fileno(), 1 << 16)
            if not block:
                return {}
            self.held += block
        line, _, self.held = self.held.partition(b"\n")
        return json.loads(line)
