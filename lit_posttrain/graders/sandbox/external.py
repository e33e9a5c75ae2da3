"""Level 4: every program in a process that a command of yours starts: a container, gVisor, a virtual machine."""

import json
import os
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lit_posttrain.errors import InputError
from lit_posttrain.graders.sandbox.box import run_script
from lit_posttrain.graders.sandbox.command_child import CommandChild, started
from lit_posttrain.graders.sandbox.conversation import SandboxFailure
from lit_posttrain.graders.sandbox.interface import Level, Limits
from lit_posttrain.graders.sandbox.runs import ProcessSandbox

HERE = Path(__file__).parent
CARRIED = ("plain", "channel", "judge", "rlimits", "runner")
PROOF = ("print(6 * 7)", b"42\n")
PASSED_ON = ("PATH", "HOME", "XDG_RUNTIME_DIR", "DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_CONTEXT")


@dataclass(frozen=True)
class CommandSandbox(ProcessSandbox):
    """Starts a fresh process per program by a command, which has to confine it: nothing here does but resource limits.

    Args:
        command: The command up to the interpreter and its options, such as `docker run --rm -i --network none
            --read-only --cap-drop ALL --security-opt no-new-privileges --memory 1g --pids-limit 64 python:3.12-slim
            timeout -s KILL 60 python -I -S`, as a list; add `--runtime runsc` for gVisor. A kill here reaches the
            command itself: what that leaves behind has to end by its own, therefore the `timeout`.
        runs_at_once: Programs at the same time; further ones wait.
        environment: What the command gets; None for a few variables that container tools need.
        start_s: Seconds that a start may take; a program's wall time begins after it.
    """

    command: list[str]
    runs_at_once: int = 2
    environment: dict[str, str] | None = None
    start_s: float = 10.0

    @property
    def level(self) -> Level:
        """Taken on trust: what the command confines is not tried out."""
        return Level.EXTERNAL

    def __post_init__(self) -> None:
        if not self.command:
            raise InputError(
                "an external sandbox needs a command that starts a Python interpreter (got none)"
            )
        if self.runs_at_once < 1:
            raise InputError(f"runs_at_once must be 1 or more (got {self.runs_at_once})")

    def facts(self) -> dict[str, str]:
        """Tags of a run; what confines the programs is the command's business and not tested here."""
        return {"sandbox.level": str(int(self.level)), "sandbox.command": " ".join(self.command)[:200]}

    def spawn(self, limits: Limits, *, with_stdin: bool = False, waits: bool = True) -> CommandChild:
        """Starts the command; see `ProcessSandbox`. The first start is tried with an honest program.

        Raises:
            InputError: if the command does not run Python as expected.
        """
        self._state.check(self._check)
        release = self._state.take() if waits else None
        try:
            return self._started(limits, release)
        except BaseException:
            if release is not None:
                release()
            raise

    def close(self) -> None:
        """Nothing runs between programs."""

    @property
    def _state(self) -> "_State":
        """Made at the first use, so that an unused sandbox has no attribute but its settings."""
        made = vars(self).get("_made")
        return made or vars(self).setdefault("_made", _State(self.runs_at_once))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.command, self.runs_at_once, self.environment, self.start_s)

    def _started(self, limits: Limits, release: Callable[[], None] | None) -> CommandChild:
        inherited = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        environment = inherited if self.environment is None else self.environment
        modules = {name: (HERE / f"{name}.py").read_text() for name in CARRIED}
        bundle = json.dumps({"modules": modules, "limits": asdict(limits)}).encode()
        child = started(self.command, environment, bundle, self.start_s)
        child.on_close = release
        return child

    def _check(self) -> None:
        source, expected = PROOF
        limits = Limits()
        try:
            reply = run_script(self._started(limits, None), source, b"", limits)
        except SandboxFailure as failure:
            raise InputError(f"the sandbox command does not work: {failure}") from failure
        if reply.printed != expected:
            raise InputError(
                f"the sandbox command {' '.join(self.command)!r} does not run programs: {reply.end} {reply.note} "
                f"{reply.printed[:200]!r}. It must start a Python interpreter with its input and output attached"
            )


class _State:
    """Free slots, and whether the command was tried."""

    def __init__(self, count: int) -> None:
        self.free, self.lock, self.is_checked = threading.BoundedSemaphore(count), threading.Lock(), False

    def check(self, check: Callable[[], None]) -> None:
        with self.lock:
            if not self.is_checked:
                check()
                self.is_checked = True

    def take(self) -> Callable[[], None]:
        self.free.acquire()
        return self.free.release
