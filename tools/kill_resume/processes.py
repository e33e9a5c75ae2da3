"""Starts runs as processes of their own, kills them, and sees that nothing of them is left."""

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kill_resume.announce import EVENTS, Announcer, Target
from kill_resume.hooks import install

PR_SET_CHILD_SUBREAPER = 36
PR_SET_PDEATHSIG = 1
PHASES = "phases.json"
LONGEST_RUN_S = 300.0
ORPHANS_END_WITHIN_S = 60.0
CRASHED = 70


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (negative: the signal), and after how many seconds."""

    code: int
    seconds: float


def adopt_orphans() -> None:
    """Makes this process the parent of what its killed children leave behind, so that it can be waited for."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def forked(work: Callable[[], int], folder: Path, log: str) -> int:
    """The pid of a copy of this process that does `work` in `folder` and exits with its result."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = CRASHED
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.chdir(folder)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        code = work()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait_for(pid: int) -> int:
    """The exit code of a child, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fit_in_fork(arguments: list[str], folder: Path, target: Target | None, log: str) -> Ended:
    """Runs the command line in a fork of this process, which has imported everything; kills it at the target."""
    here, there = os.pipe()

    def work() -> int:
        os.close(here)
        announcer = Announcer(target, there, Path(EVENTS))
        install(announcer)
        from lit_posttrain.cli import main

        announcer.begin("start")
        code = main(arguments)
        announcer.end("exit")
        Path(PHASES).write_text(json.dumps({"counts": announcer.counts, "seconds": announcer.seconds}))
        return code

    pid = forked(work, folder, log)
    os.close(there)
    try:
        return _until_target(pid, here, 0.0 if target is None else target.delay_s)
    finally:
        os.close(here)


def fit_by_console(arguments: list[str], folder: Path, kill_after_s: float | None, log: str) -> Ended:
    """Runs the installed command; kills it after so many seconds."""
    command = Path(sys.executable).parent / "lit-posttrain"
    started = time.monotonic()
    with (folder / log).open("ab") as out:
        process = subprocess.Popen([str(command), *arguments], cwd=folder, stdout=out, stderr=out)
    try:
        process.wait(LONGEST_RUN_S if kill_after_s is None else kill_after_s)
    except subprocess.TimeoutExpired:
        process.kill()
    return Ended(process.wait(), time.monotonic() - started)


def _until_target(pid: int, pipe: int, delay_s: float) -> Ended:
    """Waits for the call of the target, and then for its delay, but no longer than the process lives."""
    started = time.monotonic()
    called = select.select([pipe], [], [], LONGEST_RUN_S)[0] and os.read(pipe, 1) == b"!"
    if called:
        time.sleep(delay_s)
        os.kill(pid, signal.SIGKILL)  # still our child: the pid cannot be another's before `waitpid`
    elif time.monotonic() - started >= LONGEST_RUN_S:
        os.kill(pid, signal.SIGKILL)
    return Ended(wait_for(pid), time.monotonic() - started)


def orphans_left(folder: Path) -> list[str]:
    """Waits until no process works in `folder` any more; the command lines of those that do not end."""
    until = time.monotonic() + ORPHANS_END_WITHIN_S
    while found := _working_in(folder):
        if time.monotonic() > until:
            return [_command(pid) for pid in found]
        _reap()
        time.sleep(0.02)
    _reap()
    return []


def _working_in(folder: Path) -> list[int]:
    inside = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if Path(os.readlink(f"/proc/{name}/cwd")) == folder:
                    inside.append(int(name))
            except OSError:
                continue
    return inside


def _reap() -> None:
    """Lets adopted processes go that have ended; only while no child of our own is being waited for."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return f"process {pid}"
