"""An unconfined child process that speaks the runner's protocol, to test conversations without a sandbox."""

import os
import resource
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import lit_posttrain.graders.sandbox as package

STARTER = """
import importlib, os, resource, sys, types
for name in ("lit_posttrain", "lit_posttrain.graders", "lit_posttrain.graders.sandbox"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [sys.argv[2]] if name.endswith("sandbox") else []
runner = importlib.import_module("lit_posttrain.graders.sandbox.runner")
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[3]), int(sys.argv[3]) + 1))
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
channel = os.dup2(int(sys.argv[1]), 3)
try:
    runner.serve(channel)
finally:
    os._exit(0)
"""


@dataclass
class PlainExit:
    code: int | None
    signal: int | None
    cpu_s: float


class PlainChild:
    """A fresh interpreter; `Child` of conversation.py."""

    def __init__(self, cpu_s: int = 2, with_stdin: bool = False) -> None:
        self.channel, theirs = socket.socketpair()
        folder = next(iter(package.__path__))
        command = [
            sys.executable,
            "-I",
            "-S",
            "-c",
            STARTER,
            str(theirs.fileno()),
            str(Path(folder)),
            str(cpu_s),
        ]
        stdin = subprocess.PIPE if with_stdin else subprocess.DEVNULL
        self.before_s = _children_s()
        self.process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            env={},
            start_new_session=True,
        )
        theirs.close()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.stdout_fd, self.stderr_fd = (
            os.dup(self.process.stdout.fileno()),
            os.dup(self.process.stderr.fileno()),
        )
        self.process.stdout.close()
        self.process.stderr.close()
        self.stdin_fd = None
        if self.process.stdin is not None:
            self.stdin_fd = os.dup(self.process.stdin.fileno())
            self.process.stdin.close()
        self.is_closed = False

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)

    def wait(self, timeout_s: float) -> PlainExit:
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError from error
        return PlainExit(
            code if code >= 0 else None, -code if code < 0 else None, _children_s() - self.before_s
        )

    def close(self) -> None:
        self.kill()
        self.process.wait()
        if not self.is_closed:
            self.is_closed = True
            self.channel.close()
            for fd in (self.stdout_fd, self.stderr_fd, self.stdin_fd):
                if fd is not None:
                    os.close(fd)


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
