"""The fork server: a fresh interpreter with an empty environment that forks a confined child for every program.

Run by path as `python -I -S server.py OPTIONS`. It never sees an expected value, nor anything else of the process
that started it but descriptors. Standard library only; its neighbours are loaded from their files, without the
package around them.
"""

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
import types
from contextlib import suppress
from typing import Any

PRELOADED = """
    abc array base64 bisect cmath collections collections.abc contextlib copy dataclasses datetime decimal enum
    fractions functools hashlib heapq inspect io itertools json keyword math numbers operator queue random re
    statistics string struct textwrap threading time traceback typing unicodedata
"""
"""What programs usually import: there already, and shared by all of them."""

CHANNEL, STATUS = 3, 4
MESSAGE_BYTES = 4096


def main() -> None:
    """Confines itself as the options say, says hello on the control socket, and serves until that closes."""
    options = json.loads(sys.argv[1])
    control = socket.socket(fileno=_moved_up(options["control"]))
    try:
        _stand_alone_package()
        server = Server(control, options)
    except Exception:
        control.send(json.dumps({"failed": traceback.format_exc(limit=-3)[-2000:]}).encode("ascii"))
        sys.exit(1)
    control.send(json.dumps(server.facts).encode())
    server.serve()


class Server:
    """Forks children, tells how they ended, kills them on request or when nobody waits for them any more."""

    def __init__(self, control: socket.socket, options: dict[str, Any]) -> None:
        self.control, self.level = control, options["level"]
        module = importlib.import_module("lit_posttrain.graders.sandbox.confinement")
        self.runner = importlib.import_module("lit_posttrain.graders.sandbox.runner")
        for name in PRELOADED.split():
            importlib.import_module(name)
        self.confinement, self.facts = module.prepare(self.level)
        self.pid = os.getpid()
        self.runs: dict[int, socket.socket] = {}
        self.pids: dict[int, int] = {}
        self.children_ended, self.wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wakeup, warn_on_full_buffer=False)
        self.poll = select.poll()
        gc.collect()
        gc.freeze()

    def serve(self) -> None:
        """Until the control socket closes and the last run has ended."""
        self.poll.register(self.children_ended, select.POLLIN)
        self.poll.register(self.control, select.POLLIN)
        is_open = True
        while is_open or self.runs:
            for descriptor, _ in self.poll.poll():
                if descriptor == self.children_ended:
                    os.read(self.children_ended, MESSAGE_BYTES)
                    self._reap()
                elif descriptor == self.control.fileno():
                    is_open = self._accept()
                elif descriptor in self.pids:
                    self._kill(self.pids[descriptor])

    def _accept(self) -> bool:
        """Takes one request and forks; False when there will be no more."""
        message, descriptors, *_ = socket.recv_fds(self.control, MESSAGE_BYTES, 5)
        if not message:
            self.poll.unregister(self.control)
            self.control.close()
            return False
        limits = json.loads(message)
        pid = os.fork()
        if pid == 0:
            self._become(limits, descriptors)
        status = socket.socket(fileno=descriptors.pop())
        for descriptor in descriptors:
            os.close(descriptor)
        self.runs[pid], self.pids[status.fileno()] = status, pid
        self.poll.register(status, select.POLLIN)
        return True

    def _become(self, limits: dict[str, Any], descriptors: list[int]) -> None:
        """The child: arranges its descriptors, confines itself, reports that, and runs the program; never returns."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            channel, stdout, stderr, *stdin, status = descriptors
            for place, descriptor in enumerate(
                (*stdin, stdout, stderr, channel, status), start=1 - len(stdin)
            ):
                os.dup2(descriptor, place, inheritable=False)
            os.umask(0o077)
            self.confinement.enter(limits, self.pid, STATUS)
            os.write(STATUS, b"ready")
        except BaseException:
            os.write(STATUS, traceback.format_exc(limit=-2)[-2000:].encode("ascii", "replace"))
            os._exit(1)
        try:
            os.close(STATUS)
            self.runner.serve(CHANNEL)
        finally:
            os._exit(0)

    def _kill(self, pid: int) -> None:
        """The one word that a run's socket can bring is its end, be it a message or its closing."""
        self.poll.unregister(self.runs[pid])
        with suppress(OSError):  # closed at the other end, with words of ours unread
            self.runs[pid].recv(MESSAGE_BYTES)
        os.killpg(pid, signal.SIGKILL) if _leads_group(pid) else os.kill(pid, signal.SIGKILL)

    def _reap(self) -> None:
        while self.runs:
            pid, status, usage = os.wait3(os.WNOHANG)
            if pid == 0:
                return
            if pid not in self.runs:
                continue
            if self.level < 2 and _leads_group(pid):
                os.killpg(pid, signal.SIGKILL)  # what the program left in its group
            self._report(pid, status, usage.ru_utime + usage.ru_stime)

    def _report(self, pid: int, status: int, cpu_s: float) -> None:
        code = os.waitstatus_to_exitcode(status)
        run = self.runs.pop(pid)
        del self.pids[run.fileno()]
        with suppress(KeyError):  # was killed
            self.poll.unregister(run)
        with suppress(OSError):  # nobody waits for it any more
            run.send(json.dumps({"code": code, "cpu_s": round(cpu_s, 6)}).encode(), socket.MSG_NOSIGNAL)
        run.close()


def _leads_group(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except OSError:
        return False
    return True


def _moved_up(descriptor: int) -> int:
    """Keeps 0 to 4 taken, so that what arrives later never lies where a child wants its own."""
    import fcntl

    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    for place in (CHANNEL, STATUS):
        os.dup2(0, place, inheritable=False)
    if descriptor > STATUS:
        os.close(descriptor)
    return moved


def _stand_alone_package() -> None:
    """Lets neighbours import each other by their full names, without running the package's own code."""
    parts = ("lit_posttrain", "graders", "sandbox")
    for depth in range(1, len(parts) + 1):
        module = types.ModuleType(".".join(parts[:depth]))
        module.__path__ = [os.path.dirname(os.path.abspath(__file__))] if depth == len(parts) else []
        sys.modules[module.__name__] = module


if __name__ == "__main__":
    main()
