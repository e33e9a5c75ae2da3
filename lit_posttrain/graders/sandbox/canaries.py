"""Attacks that a sandbox must withstand before its level is claimed: calls that return 0 are no proof of anything."""

import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from lit_posttrain.graders.sandbox import plain
from lit_posttrain.graders.sandbox.box import run_script
from lit_posttrain.graders.sandbox.canary_programs import ATTEMPT, CLOSED, ENDLESS, attacks
from lit_posttrain.graders.sandbox.conversation import Conversation, Ended, SandboxFailure
from lit_posttrain.graders.sandbox.fork_server import ForkServer
from lit_posttrain.graders.sandbox.interface import End, Level, Limits

LIMITS = Limits(cpu_s=2, wall_s=20, memory_mib=256)
BRIEF = Limits(wall_s=0.3)
SECRET = "a planted secret that no program may see"


@dataclass
class Bait:
    """What the attacks are after: a file, a folder, a process with a secret, a TCP and an abstract unix socket.

    Args:
        interpreter: The Python of the process.
    """

    interpreter: str
    folder: Path = field(init=False)
    victim: subprocess.Popen[bytes] = field(init=False)
    tcp: socket.socket = field(init=False)
    unix: socket.socket = field(init=False)

    def __enter__(self) -> Self:
        self._temporary = tempfile.TemporaryDirectory(prefix="canary-")
        self.folder = Path(self._temporary.name)
        self.folder.chmod(0o777)
        (self.folder / "secret").write_text(SECRET)
        command = [self.interpreter, "-I", "-S", "-c", "input()"]
        environment = {"PLANTED": SECRET}
        self.victim = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.tcp, self.unix = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)
        self.unix.bind(f"\0{self.folder.name}")
        self.unix.listen()
        for listener in (self.tcp, self.unix):
            listener.setblocking(False)
        return self

    def __exit__(self, *_: object) -> None:
        self.victim.kill()
        self.victim.communicate()
        self.tcp.close()
        self.unix.close()
        self._temporary.cleanup()

    def filled(self, attack: str) -> str:
        """An attack's source with what it is after."""
        places = {"secret": str(self.folder / "secret"), "marker": str(self.folder / "marker")}
        numbers = {"victim": self.victim.pid, "port": self.tcp.getsockname()[1]}
        names = {"folder": str(self.folder), "abstract": self.folder.name, "interpreter": self.interpreter}
        return (ATTEMPT + attack).format(**places, **numbers, **names)

    def witnesses(self) -> list[str]:
        """What was seen from outside, whatever the attacks said themselves."""
        seen = ["the process was killed"] if self.victim.poll() is not None else []
        seen += ["a file was written"] if (self.folder / "marker").exists() else []
        for listener, name in ((self.tcp, "TCP"), (self.unix, "a unix socket")):
            with suppress(BlockingIOError):
                listener.accept()[0].close()
                seen.append(f"{name} was reached")
        return seen


def withstands(server: ForkServer) -> dict[str, str]:
    """Runs all canaries of the server's level on it: per name what happened, empty where it held.

    Raises:
        SandboxFailure: if the server cannot run programs at all.
    """
    with Bait(server.interpreter) as bait:
        results = {"honest": _said(server, "print(sum(range(10)))", b"45\n")}
        results |= {
            name: _said(server, bait.filled(attack), CLOSED) for name, attack in attacks(server.level).items()
        }
        if server.level >= Level.CONFINED:
            results["outlive"] = _outlived(server)
            results["witnesses"] = "; ".join(bait.witnesses())
        if server.level >= Level.ISOLATED:
            results["namespaces"] = _shared_namespaces(server)
    return results


def _said(server: ForkServer, source: str, expected: bytes) -> str:
    reply = run_script(server.spawn(LIMITS), source, b"", LIMITS)
    if reply.end is End.SANDBOX_ERROR:
        raise SandboxFailure(reply.note)
    if reply.printed == expected:
        return ""
    return f"{reply.end}: {reply.printed[:40]!r} {reply.error} {reply.note}"[:200]


def _outlived(server: ForkServer) -> str:
    """A program that ignores all signals must be gone after a kill, and nobody may hold its output any more."""
    child = server.spawn(LIMITS)
    try:
        with suppress(Ended):
            message = plain.encode(["script", ENDLESS.encode(), 1024, None], 1 << 16, _no_object)
            Conversation(child, BRIEF, 4096).run_to_end(message, b"")
        child.kill()
        end = child.wait(BRIEF.wall_s + 5)
        if end.signal != signal.SIGKILL:
            return f"ended with {end.code}, signal {end.signal}"
        return "" if _is_let_go(child.stdout_fd) else "something still holds its output"
    finally:
        child.close()


def _is_let_go(descriptor: int) -> bool:
    stops_at = time.monotonic() + 1.0
    while time.monotonic() < stops_at:
        if select.select([descriptor], [], [], 0.1)[0] and not os.read(descriptor, 4096):
            return True
    return False


def _no_object(value: object) -> tuple[int, str]:
    raise TypeError(f"{value!r} is no plain data")


def _shared_namespaces(server: ForkServer) -> str:
    names: dict[str, str] = server.facts["namespaces"]
    own = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in names}
    shared = [kind for kind in names if names[kind] == own[kind]]
    return f"shares {', '.join(shared)}" if shared or not names else ""
