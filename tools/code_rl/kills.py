"""Kills the fork servers of a run again and again, by their process ids."""

import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROGRAM = b"graders/sandbox/server.py"


@dataclass
class Kills:
    """How often all servers of a run were killed, and how often one of them had a program running."""

    rounds: int = 0
    servers: int = 0
    with_program: int = 0


def kill_servers_of(process: subprocess.Popen[bytes], every_s: float) -> Kills:
    """Kills all fork servers below a process every so many seconds, as long as it lives."""
    kills = Kills()
    while True:
        try:
            process.wait(every_s)
            return kills
        except subprocess.TimeoutExpired:
            _kill(process.pid, kills)


def _kill(root: int, kills: Kills) -> None:
    children = children_by_parent()
    servers = [pid for pid in children.get(root, ()) if PROGRAM in command_of(pid)]
    kills.rounds += bool(servers)
    for pid in servers:
        kills.servers += 1
        kills.with_program += depth(pid, children) > depth_of_idle(pid, children)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def depth(pid: int, children: dict[int, list[int]]) -> int:
    """Generations of processes below this one."""
    return max((1 + depth(child, children) for child in children.get(pid, ())), default=0)


def depth_of_idle(pid: int, children: dict[int, list[int]]) -> int:
    """Generations below a server without a program: 1 where it has a first process of a pid namespace, else 0."""
    return int(any(pid_in_its_namespace(child) == 1 for child in children.get(pid, ())))


def pid_in_its_namespace(pid: int) -> int:
    """The number by which a process knows itself; 0 if it is gone."""
    for line in _read(pid, "status").splitlines():
        if line.startswith(b"NSpid:"):
            return int(line.split()[-1])
    return 0


def children_by_parent() -> dict[int, list[int]]:
    """The processes of this machine, by the process that they belong to."""
    found: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            after_name = _read(int(name), "stat").rpartition(b")")[2].split()
            if after_name:
                found.setdefault(int(after_name[1]), []).append(int(name))
    return found


def command_of(pid: int) -> bytes:
    """The command line of a process; empty if it is gone."""
    return _read(pid, "cmdline")


def _read(pid: int, name: str) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""
