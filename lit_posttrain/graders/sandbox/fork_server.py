"""The parent's side of a fork server: its process, its start, its replacement."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lit_posttrain.graders.sandbox.child import Child, Exit, ends
from lit_posttrain.graders.sandbox.conversation import SandboxFailure
from lit_posttrain.graders.sandbox.interface import Level, Limits

PROGRAM = Path(__file__).with_name("server.py")
START_LIMIT_S = 60.0
RESTART_LIMIT_S, RESTART_PAUSE_S = 20.0, 0.05
MESSAGE_BYTES = 4096

__all__ = ["Child", "Exit", "ForkServer", "SandboxFailure", "base_interpreter"]


class ForkServer:
    """Runs programs in forks of one process that knows nothing. Usable from several threads.

    Args:
        level: What its programs are confined by; nothing less is ever used instead.
        interpreter: The Python to run, an absolute path.
        recycle_after: Programs after which the process is replaced.
    """

    def __init__(self, level: Level, interpreter: str | None = None, recycle_after: int = 2000) -> None:
        self.level, self.recycle_after = level, recycle_after
        self.interpreter = interpreter or base_interpreter()
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._retired: list[_Process] = []
        self._was_up = False

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the running server says of itself (see `confinement.prepare`); starts it if need be.

        Raises:
            SandboxFailure: if it cannot be started.
        """
        with self._lock:
            return self._running().facts

    @property
    def pid(self) -> int | None:
        """The process id of the running server, if there is one."""
        with self._lock:
            return self._process.pid if self._process else None

    def start(self) -> None:
        """Starts the process if there is none that lives; `spawn` does so by itself.

        Raises:
            SandboxFailure: if it does not start, with what it said.
        """
        with self._lock:
            self._running()

    def spawn(self, limits: Limits, with_stdin: bool = False) -> Child:
        """Forks a child; it confines itself and serves on its channel. Returns before that is done.

        Args:
            limits: What the program may use.
            with_stdin: Whether to give it an open stdin instead of an empty one.

        Raises:
            SandboxFailure: if the server cannot be started, or not be reached again within RESTART_LIMIT_S.
        """
        request = json.dumps(asdict(limits)).encode()
        ours, theirs = ends(with_stdin)
        try:
            self._send(request, theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        return ours

    def close(self) -> None:
        """Kills the process and all its programs; a later spawn starts a new one."""
        with self._lock:
            for process in (*self._retired, self._process):
                if process is not None:
                    process.kill()
            self._process, self._retired = None, []

    def _send(self, request: bytes, descriptors: list[int]) -> None:
        """Keeps trying for a while where the server ran before: whoever kills it may do so again."""
        stops_at = time.monotonic() + RESTART_LIMIT_S
        with self._lock:
            while True:
                try:
                    self._running().ask(request, descriptors)
                    return
                except (OSError, SandboxFailure) as failure:
                    self._drop()
                    if not self._was_up or time.monotonic() > stops_at:
                        raise SandboxFailure(f"the fork server cannot be reached: {failure}") from failure
                time.sleep(RESTART_PAUSE_S)

    def _running(self) -> "_Process":
        if self._process is not None and self._process.served >= self.recycle_after:
            self._process.retire()
            self._retired.append(self._process)
            self._process = None
        self._retired = [process for process in self._retired if process.is_alive]
        if self._process is not None and not self._process.is_alive:
            self._drop()
        if self._process is None:
            self._process = _Process(self.level, self.interpreter)
            self._was_up = True
        return self._process

    def _drop(self) -> None:
        if self._process is not None:
            self._process.kill()
        self._process = None


class _Process:
    """One server process and the control socket to it."""

    def __init__(self, level: Level, interpreter: str) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        options = json.dumps({"level": int(level), "control": theirs.fileno()})
        with theirs:
            command = [interpreter, "-I", "-S", "-B", "-X", "utf8", str(PROGRAM), options]
            try:
                self._process = _started(command, theirs.fileno())
            except BaseException:
                self.control.close()
                raise
        self.served = 0
        try:
            self.facts = self._hello()
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: bytes, descriptors: list[int]) -> None:
        """Hands a request over; raises OSError if the process is gone."""
        socket.send_fds(self.control, [request], descriptors, socket.MSG_NOSIGNAL)
        self.served += 1

    def retire(self) -> None:
        """It ends when its last program has."""
        self.control.close()

    def kill(self) -> None:
        self.control.close()
        self._process.kill()
        self._process.wait()

    def _hello(self) -> dict[str, Any]:
        self.control.settimeout(START_LIMIT_S)
        try:
            message = self.control.recv(MESSAGE_BYTES)
        except OSError as failure:
            raise SandboxFailure(f"the fork server did not start: {failure!r}") from failure
        self.control.settimeout(None)
        if not message:
            raise SandboxFailure(
                "the fork server ended before it said anything; can this user read the interpreter's standard library?"
            )
        facts = json.loads(message)
        if "failed" in facts:
            raise SandboxFailure(f"the fork server did not start: {facts['failed']}")
        return facts


def base_interpreter() -> str:
    """The Python beneath a virtual environment: that has the standard library, and the packages of nobody."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def _started(command: list[str], descriptor: int) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command,
            env={},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[descriptor],
            start_new_session=True,
        )
    except OSError as failure:
        raise SandboxFailure(f"cannot run {command[0]}: {failure}") from failure
