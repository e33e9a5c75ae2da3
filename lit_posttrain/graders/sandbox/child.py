"""One program that a fork server runs: our ends of its pipes, and its end."""

import json
import os
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from lit_posttrain.graders.sandbox.conversation import SandboxFailure

MESSAGE_BYTES = 4096


@dataclass(frozen=True)
class Exit:
    """How a process ended: its exit code or the signal, and the CPU seconds that it used."""

    code: int | None
    signal: int | None
    cpu_s: float


class Child:
    """One program in its own process: the ends of its pipes, and its end. Not for two threads at once.

    `channel` is a stream socket to the runner; `stdin_fd` (or None), `stdout_fd` and `stderr_fd` are our ends of
    its pipes, open until `close`, which calls `on_close`.
    """

    def __init__(
        self,
        channel: socket.socket,
        status: socket.socket,
        stdin_fd: int | None,
        stdout_fd: int,
        stderr_fd: int,
    ) -> None:
        self.channel, self.stdin_fd = channel, stdin_fd
        self.stdout_fd, self.stderr_fd = stdout_fd, stderr_fd
        self._status, self._exit, self._is_ready = status, None, False
        self._is_open, self._is_killed = True, False
        self.on_close: Callable[[], None] | None = None

    def kill(self) -> None:
        """SIGKILL to the program and its group. Idempotent; `wait` tells when it is done."""
        if self._exit is None and self._is_open and not self._is_killed:
            self._is_killed = True
            with suppress(OSError):
                self._status.send(b"kill", socket.MSG_NOSIGNAL)

    def wait(self, timeout_s: float) -> Exit:
        """Waits for the end of the program.

        Raises:
            TimeoutError: if it still runs after `timeout_s` seconds.
            SandboxFailure: if the fork server died, or could not confine the program, which then never ran.
        """
        stops_at = time.monotonic() + timeout_s
        news = select.poll()  # select takes no descriptor above 1,023
        news.register(self._status, select.POLLIN)
        while self._exit is None:
            if not news.poll(max(stops_at - time.monotonic(), 0) * 1000):
                raise TimeoutError(f"the program has not ended within {timeout_s} s")
            self._hear(self._message())
        return self._exit

    def close(self) -> None:
        """Kills the program if it still runs, and closes our ends."""
        if not self._is_open:
            return
        self._is_open = False
        self._status.close()  # the server kills whoever nobody waits for
        self.channel.close()
        for descriptor in (self.stdin_fd, self.stdout_fd, self.stderr_fd):
            if descriptor is not None:
                os.close(descriptor)
        self.stdin_fd = None
        if self.on_close is not None:
            self.on_close()

    def _message(self) -> bytes:
        try:
            return self._status.recv(MESSAGE_BYTES)
        except ConnectionResetError:  # it closed before it read our kill; what it said before is still there
            return self._status.recv(MESSAGE_BYTES)

    def _hear(self, message: bytes) -> None:
        if message == b"ready":
            self._is_ready = True
        elif not message:
            raise SandboxFailure("the fork server died")
        elif not self._is_ready:
            raise SandboxFailure(f"the program could not be confined: {message.decode('ascii', 'replace')}")
        else:
            end = json.loads(message)
            code = end["code"]
            self._exit = Exit(code if code >= 0 else None, -code if code < 0 else None, end["cpu_s"])


def ends(with_stdin: bool) -> tuple[Child, list[int]]:
    """Our ends of a run's sockets and pipes as a Child; theirs in the order that the server expects; close these."""
    channel, their_channel = socket.socketpair()
    status, their_status = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    (stdout, their_stdout), (stderr, their_stderr) = os.pipe(), os.pipe()
    their_stdin, stdin = os.pipe() if with_stdin else (None, None)
    child = Child(channel, status, stdin, stdout, stderr)
    inputs = [] if their_stdin is None else [their_stdin]
    return child, [their_channel.detach(), their_stdout, their_stderr, *inputs, their_status.detach()]
