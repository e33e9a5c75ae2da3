"""The sandbox of this machine: fork servers whose level the canaries have proven."""

import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lit_posttrain.errors import InputError
from lit_posttrain.graders.sandbox import levels
from lit_posttrain.graders.sandbox.fork_server import Child, ForkServer, base_interpreter
from lit_posttrain.graders.sandbox.interface import Level, Limits
from lit_posttrain.graders.sandbox.levels import Proof
from lit_posttrain.graders.sandbox.runs import ProcessSandbox


@dataclass(frozen=True)
class LocalSandbox(ProcessSandbox):
    """Runs programs on this machine, at the highest level from `min_level` to `max_level` that canaries prove.

    Nothing is started before the first program. What the levels keep out is in docs/sandbox.md.

    Args:
        min_level: The run refuses to start below it: 2 (Landlock and seccomp), 3 (also namespaces), 1 (limits only).
        max_level: No higher one is tried.
        servers: Fork servers, each for one program at a time; further programs wait.
        recycle_after: Programs after which a fork server is replaced.
        i_accept_unconfined_code: Needed for `min_level` 1, at which programs can do what you can.
        interpreter: The Python for programs; None takes the one below this environment. Its standard library is all
            that programs can import.
    """

    min_level: int = 2
    max_level: int = 3
    servers: int = 2
    recycle_after: int = 2000
    i_accept_unconfined_code: bool = False
    interpreter: str | None = None

    def __post_init__(self) -> None:
        _check_levels(self.min_level, self.max_level, self.i_accept_unconfined_code)
        for name in ("servers", "recycle_after"):
            if getattr(self, name) < 1:
                raise InputError(f"sandbox {name} must be 1 or more (got {getattr(self, name)})")

    @property
    def level(self) -> Level:
        """The level that is used, proven when first asked for.

        Raises:
            InputError: if none from `min_level` to `max_level` can be proven.
        """
        return self.prove().level

    def prove(self) -> Proof:
        """The proof of the level that is used; the canaries run once per process.

        Raises:
            InputError: if none can be proven, or the interpreter cannot be run.
        """
        interpreter = _usable(self.interpreter or base_interpreter())
        return levels.highest(Level(self.min_level), Level(self.max_level), interpreter)

    def facts(self) -> dict[str, str]:
        """Tags of a run: level, kernel, architecture, version of Landlock, what the canaries said."""
        proof, system = self.prove(), os.uname()
        return {
            "sandbox.level": str(int(proof.level)),
            "sandbox.kernel": system.release,
            "sandbox.architecture": system.machine,
            "sandbox.canaries": str(proof),
        } | {f"sandbox.{name}": value for name, value in proof.facts.items()}

    def spawn(self, limits: Limits, *, with_stdin: bool = False, waits: bool = True) -> Child:
        """Starts a confined process; see `ProcessSandbox`."""
        if limits.scratch_mib and self.level < Level.ISOLATED:
            raise InputError(
                "a scratch folder needs sandbox level 3, and this machine proves "
                f"{int(self.level)} (max_level {self.max_level}): set scratch_mib to 0"
            )
        return self._pool.spawn(limits, with_stdin, waits)

    def close(self) -> None:
        """Kills all servers and their programs; a later program starts new ones."""
        self._pool.close()

    @property
    def _pool(self) -> "_Servers":
        """Made at the first use: an unused sandbox has no attribute but its settings, which a config may list."""
        made = vars(self).get("_made")
        return made or vars(self).setdefault("_made", _Servers(self.servers, self.recycle_after, self.prove))

    def __reduce__(self) -> tuple[Any, ...]:
        configured = (self.servers, self.recycle_after, self.i_accept_unconfined_code, self.interpreter)
        return type(self), (self.min_level, self.max_level, *configured)


class _Servers:
    """Fork servers and the slots on them. A process that was forked from ours starts its own."""

    def __init__(self, count: int, recycle_after: int, prove: Callable[[], Proof]) -> None:
        self.count, self.recycle_after, self.prove = count, recycle_after, prove
        self._reset()

    def spawn(self, limits: Limits, with_stdin: bool, waits: bool) -> Child:
        """A child on the server with the fewest programs; its slot is free again when it is closed."""
        if self._owner != os.getpid():
            self._reset()
        self._start()
        slot = _Slot(self._free if waits else None)
        with self._lock:
            server = min(self._servers, key=lambda server: self._running[server])
            self._running[server] += 1
        slot.on_release = lambda: self._ended(server)
        try:
            child = server.spawn(limits, with_stdin)
        except BaseException:
            slot.release()
            raise
        child.on_close = slot.release
        return child

    def close(self) -> None:
        """Kills all; children that are still open find their server dead."""
        if self._owner == os.getpid():
            _close_all(self._servers, self._owner)

    def _start(self) -> None:
        with self._lock:
            if not self._running:
                proof = self.prove()
                servers = [
                    ForkServer(proof.level, proof.interpreter, self.recycle_after) for _ in range(self.count)
                ]
                self._servers += servers
                self._running = dict.fromkeys(servers, 0)

    def _ended(self, server: ForkServer) -> None:
        with self._lock:
            self._running[server] -= 1

    def _reset(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._free = threading.BoundedSemaphore(self.count)
        self._servers: list[ForkServer] = []
        self._running: dict[ForkServer, int] = {}
        weakref.finalize(self, _close_all, self._servers, self._owner)


class _Slot:
    """The right to run one program; waits for it."""

    def __init__(self, free: threading.Semaphore | None) -> None:
        if free is not None:
            free.acquire()
        self._free, self.on_release = free, _nothing

    def release(self) -> None:
        self.on_release()
        if self._free is not None:
            self._free.release()


def _nothing() -> None:
    pass


def _close_all(servers: list[ForkServer], owner: int) -> None:
    if owner == os.getpid():
        for server in servers:
            server.close()


def _check_levels(lowest: int, highest: int, accepts: bool) -> None:
    if not 1 <= lowest <= highest <= levels.HIGHEST:
        raise InputError(
            f"sandbox levels must be 1 <= min_level <= max_level <= {int(levels.HIGHEST)} "
            f"(got min_level {lowest}, max_level {highest}); level 4 is CommandSandbox"
        )
    if lowest == Level.LIMITED and not accepts:
        raise InputError(
            "sandbox min_level 1 confines nothing: programs can read your files and use your network. "
            "Set min_level: 2, or i_accept_unconfined_code: true if the machine may be lost"
        )


def _usable(interpreter: str) -> str:
    """The interpreter if this user can run it."""
    if os.path.isabs(interpreter) and os.access(interpreter, os.X_OK):
        return interpreter
    closed = next((str(path) for path in _above(interpreter) if not os.access(path, os.X_OK)), None)
    reason = f"the folder {closed} is closed to user {os.geteuid()}" if closed else "no such program"
    raise InputError(
        f"the sandbox cannot run the interpreter {interpreter}: {reason}. Set interpreter to the absolute path of a "
        "Python that every user can run, such as /usr/bin/python3"
    )


def _above(path: str) -> list[str]:
    parts = os.path.abspath(path).split("/")
    folders = ["/".join(parts[:length]) or "/" for length in range(1, len(parts))]
    return [folder for folder in folders if os.path.isdir(folder)]
