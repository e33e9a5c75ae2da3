"""One program in a process that a command started: how it gets there, and the ends of its pipes."""

import os
import signal
import socket
import subprocess
from collections.abc import Callable

from lit_posttrain.graders.sandbox.child import Exit
from lit_posttrain.graders.sandbox.conversation import SandboxFailure

READY = b"ready\n"
SIGNAL_CODES = 128
"""A shell or container tells a death by signal n as exit code 128 + n."""

ENTRY = """
import sys, types
import os, json
os.write(1, b"ready\\n")
def line():
    data = b""
    while not data.endswith(b"\\n"):
        part = os.read(0, 1)
        if not part: os._exit(0)
        data += part
    return data
left, parts = int(line()), []
while left:
    parts.append(os.read(0, min(left, 65536)))
    left -= len(parts[-1])
    if not parts[-1]: os._exit(0)
sent = json.loads(b"".join(parts))
parent = ""
for name in ("lit_posttrain", "graders", "sandbox"):
    parent = f"{parent}.{name}" if parent else name
    package = sys.modules[parent] = types.ModuleType(parent)
    package.__path__ = []
for name, source in sent["modules"].items():
    module = sys.modules[f"{parent}.{name}"] = types.ModuleType(f"{parent}.{name}")
    exec(compile(source, name, "exec"), module.__dict__)
    setattr(package, name, module)
os.dup2(0, 3), os.dup2(1, 4), os.dup2(2, 1)
nothing = os.open(os.devnull, os.O_RDWR)
os.dup2(nothing, 0), os.dup2(nothing, 2)
package.rlimits.lower(sent["limits"], counts_threads=False)
package.runner.serve(3, 4)
os._exit(0)
"""
"""What the far interpreter runs first: it takes the neighbours' sources from its input, so an image needs Python only.

The input and output that it was started with become the channel, its error output the program's output.
"""


class CommandChild:
    """A process started by a command, as a `Child`: its input and output are the channel.

    Args:
        process: The command.
        channel: Our end of its input and output; owned from here on.
        printed_fd: Our end of its error output, which carries what the program prints; owned too.
    """

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket, printed_fd: int) -> None:
        self.channel, self._process = channel, process
        self.stdin_fd: int | None = None
        self.stdout_fd = printed_fd
        self.stderr_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self.on_close: Callable[[], None] | None = None
        self._is_open = True

    def tell(self, bundle: bytes, start_s: float) -> None:
        """Waits until the far Python is ready, and hands it what it is to run.

        Raises:
            OSError: if it is not ready within `start_s` seconds, or says something else.
        """
        self.channel.settimeout(start_s)
        said = b""
        while len(said) < len(READY):
            part = self.channel.recv(len(READY) - len(said))
            if not part:
                break
            said += part
        if said != READY:
            raise OSError(f"it ended, or said something else, before Python was ready: {said!r}")
        self.channel.sendall(b"%d\n%s" % (len(bundle), bundle))

    def kill(self) -> None:
        """SIGKILL to the command's process group."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self, timeout_s: float) -> Exit:
        """Waits for its end; raises TimeoutError. CPU seconds are unknown and told as 0."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the command has not ended within {timeout_s} s") from None
        if code > SIGNAL_CODES:
            code = SIGNAL_CODES - code
        return Exit(code if code >= 0 else None, -code if code < 0 else None, 0.0)

    def close(self) -> None:
        """Kills it and closes our ends."""
        if self._is_open:
            self.kill()
            self._process.wait()
            self._is_open = False
            self.channel.close()
            os.close(self.stdout_fd)
            os.close(self.stderr_fd)
            if self.on_close is not None:
                self.on_close()


def started(command: list[str], environment: dict[str, str], bundle: bytes, start_s: float) -> CommandChild:
    """Starts a command, which has to end in an interpreter, and hands it a bundle (see ENTRY).

    Raises:
        SandboxFailure: if it does not start within `start_s` seconds.
    """
    channel, theirs = socket.socketpair()
    output, printed = os.pipe()
    try:
        child = CommandChild(_process(command, environment, theirs.fileno(), printed), channel, output)
    except OSError as failure:
        channel.close()
        os.close(output)
        raise SandboxFailure(f"cannot start {command[0]}: {failure}") from failure
    finally:
        theirs.close()
        os.close(printed)
    try:
        child.tell(bundle, start_s)
    except OSError as failure:
        child.close()
        raise SandboxFailure(f"cannot start {command[0]}: {failure}") from failure
    return child


def _process(
    command: list[str], environment: dict[str, str], channel: int, printed: int
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*command, "-c", ENTRY],
        env=environment,
        stdin=channel,
        stdout=channel,
        stderr=printed,
        start_new_session=True,
    )
