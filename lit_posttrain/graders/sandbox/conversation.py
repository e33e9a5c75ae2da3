"""The watching side of a channel: bounded in time and bytes, whatever the process at its other end does."""

import math
import os
import select
import signal
import socket
import time
from typing import Protocol

from lit_posttrain.graders.sandbox.interface import End, Limits, Reply

CHUNK = 1 << 16
KIB = 1024
DYING_S = 2.0
"""How long a process that let go of its channel may take to be gone."""
REPORT_S = 20.0
"""How long the fork server may take to say how a process ended that was killed."""


class SandboxFailure(Exception):
    """Something of ours failed, not the program: a server that is gone, a process that could not be started."""


class Exit(Protocol):
    """How a process ended: `code` or `signal`, and the seconds of CPU that it used."""

    @property
    def code(self) -> int | None: ...
    @property
    def signal(self) -> int | None: ...
    @property
    def cpu_s(self) -> float: ...


class Child(Protocol):
    """A started, confined process that runs `runner.serve`."""

    channel: socket.socket
    stdin_fd: int | None
    stdout_fd: int
    stderr_fd: int

    def kill(self) -> None:
        """Kills it and all it started; harmless when it is gone."""

    def wait(self, timeout_s: float) -> Exit:
        """Waits for its end; raises TimeoutError when it takes longer, SandboxFailure when nobody knows."""
        ...

    def close(self) -> None:
        """Kills it and closes all that is open."""


class Ended(Exception):
    """The conversation is over; `reply` says how."""

    def __init__(self, end: End, note: str = "") -> None:
        super().__init__(end, note)
        self.reply = Reply(end, note=note)


class Conversation:
    """Lines to and from a child, its output drained meanwhile.

    Args:
        child: The process.
        limits: Its limits; time runs from here.
        max_line: Bytes of the longest line that is read.
    """

    def __init__(self, child: Child, limits: Limits, max_line: int) -> None:
        self.child, self.limits, self.max_line = child, limits, max_line
        self.stops_at = time.monotonic() + limits.wall_s
        self.received, self.outgoing = bytearray(), memoryview(b"")
        self.printed = {child.stdout_fd: bytearray(), child.stderr_fd: bytearray()}
        self.is_open = True
        self._poll = select.poll()
        self._channel_fd = child.channel.fileno()
        child.channel.setblocking(False)
        for fd in self.printed:
            os.set_blocking(fd, False)
            self._poll.register(fd, select.POLLIN)
        self._poll.register(self._channel_fd, select.POLLIN)

    @property
    def stdout(self) -> bytes:
        """What was printed so far."""
        return bytes(self.printed[self.child.stdout_fd])

    def exchange(self, line: bytes) -> bytes:
        """Sends a line, and returns the one that answers it.

        Raises:
            Ended: if there is no answer within the limits, or one that was not asked for.
        """
        self._step(0)
        if self.received:
            raise Ended(End.PROTOCOL_ERROR, "an answer that nobody asked for")
        self._send(line + b"\n")
        scanned = 0
        while (end := self.received.find(b"\n", scanned)) < 0:
            scanned = len(self.received)
            self._step(self._left_s())
        if end + 1 != len(self.received):
            raise Ended(End.PROTOCOL_ERROR, "more than one answer")
        answer = bytes(self.received[:end])
        self.received.clear()
        return answer

    def run_to_end(self, line: bytes, stdin: bytes) -> bytes:
        """Sends a line, feeds `stdin`, and returns all that came by the channel until it was closed.

        Raises:
            Ended: if a limit is reached.
        """
        self._send(line + b"\n")
        feeding = _Feeding(self.child, stdin, self._poll)
        while self.is_open:
            ready = self._step(self._left_s(), raises=False)
            if feeding.fd in ready:
                feeding.feed()
        self.drain()
        return bytes(self.received)

    def drain(self) -> None:
        """Reads what is left of the output of a process that is gone or going."""
        while any(self._read(fd) for fd in list(self.printed)):
            pass

    def exit(self) -> Exit:
        """How the process ended.

        Raises:
            Ended: if it goes on without its channel.
            SandboxFailure: if nobody says how it ended.
        """
        try:
            return self.child.wait(DYING_S)
        except TimeoutError:
            self.child.kill()
        try:
            end = self.child.wait(REPORT_S)
        except TimeoutError as error:
            raise SandboxFailure("the fork server does not say how a program ended") from error
        if end.signal == signal.SIGKILL:
            raise Ended(End.PROTOCOL_ERROR, "it closed its channel")
        return end  # by itself, and a busy machine was slow to tell

    def _send(self, data: bytes) -> None:
        self.outgoing = memoryview(data)
        self._poll.modify(self._channel_fd, select.POLLIN | select.POLLOUT)

    def _left_s(self) -> float:
        left_s = self.stops_at - time.monotonic()
        if left_s <= 0:
            self.child.kill()
            raise Ended(End.TIMEOUT, f"more than {self.limits.wall_s:g} s")
        return left_s

    def _step(self, timeout_s: float, *, raises: bool = True) -> list[int]:
        """Waits for something to happen and takes it in; returns the descriptors that are none of its own."""
        others = []
        for fd, event in self._poll.poll(math.ceil(timeout_s * 1000)):
            if fd in self.printed:
                if not self._read(fd):
                    self._poll.unregister(fd)
            elif fd == self._channel_fd:
                self._talk(event)
            else:
                others.append(fd)
        if not self.is_open and raises and b"\n" not in self.received:
            self.drain()
            raise Ended(*ending(self.exit(), self.limits))
        return others

    def _talk(self, event: int) -> None:
        try:
            if event & select.POLLOUT and self.outgoing:
                self.outgoing = self.outgoing[self.child.channel.send(self.outgoing) :]
                if not self.outgoing:
                    self._poll.modify(self._channel_fd, select.POLLIN)
            if event & ~select.POLLOUT:
                self._hear(self.child.channel.recv(CHUNK))
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            self._hear(b"")

    def _hear(self, data: bytes) -> None:
        self.received += data
        if len(self.received) > self.max_line:
            self.child.kill()
            raise Ended(End.OUTPUT_LIMIT, f"an answer of more than {self.max_line} bytes")
        if not data:
            self.is_open = False
            self._poll.unregister(self._channel_fd)

    def _read(self, fd: int) -> bool:
        """Reads once from an output; False where there is nothing more."""
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        self.printed[fd] += data
        if len(self.printed[fd]) > self.limits.output_kib * KIB:
            self.child.kill()
            raise Ended(End.OUTPUT_LIMIT, f"more than {self.limits.output_kib} KiB printed")
        return bool(data)


class _Feeding:
    """The input of a script, on its way."""

    def __init__(self, child: Child, stdin: bytes, poll: select.poll) -> None:
        self.child, self.left, self.poll, self.fd = child, memoryview(stdin), poll, child.stdin_fd
        if self.fd is not None:
            os.set_blocking(self.fd, False)
            poll.register(self.fd, select.POLLOUT)

    def feed(self) -> None:
        """Writes some more, and closes the input at its end."""
        if self.fd is None:
            return
        try:
            self.left = self.left[os.write(self.fd, self.left) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # it does not read its input
            self.left = self.left[:0]
        if not self.left:
            self.poll.unregister(self.fd)
            os.close(self.fd)
            self.fd = self.child.stdin_fd = None


def ending(exit: Exit, limits: Limits) -> tuple[End, str]:
    """What the end of a process that did not answer means."""
    used_up = exit.cpu_s >= math.ceil(limits.cpu_s) - 0.05
    if exit.signal == signal.SIGXCPU or (exit.signal == signal.SIGKILL and used_up):
        return End.TIMEOUT, f"more than {math.ceil(limits.cpu_s)} s of CPU"
    if exit.signal is not None:
        return End.DIED, f"signal {exit.signal}"
    return End.DIED, f"exit status {exit.code}"
