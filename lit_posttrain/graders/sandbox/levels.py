"""Which level this machine can prove: the highest whose canary attacks all fail."""

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from lit_posttrain.errors import InputError
from lit_posttrain.graders.sandbox.canaries import withstands
from lit_posttrain.graders.sandbox.conversation import SandboxFailure
from lit_posttrain.graders.sandbox.fork_server import ForkServer
from lit_posttrain.graders.sandbox.interface import Level

HIGHEST = Level.ISOLATED
"""That a machine can offer by itself; level 4 is an external sandbox."""


@dataclass(frozen=True)
class Proof:
    """What the canaries found at one level: each by name with what happened, empty where the sandbox held.

    `failure` says why the level could not even be tried.
    """

    level: Level
    interpreter: str
    canaries: Mapping[str, str] = field(default_factory=dict)
    failure: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether the level may be claimed."""
        return not self.failure and bool(self.canaries) and not any(self.canaries.values())

    def __str__(self) -> str:
        if self.failure:
            return f"level {int(self.level)} could not be started: {self.failure.strip().splitlines()[-1]}"
        broken = [f"{name} ({what})" for name, what in self.canaries.items() if what]
        if broken:
            return f"level {int(self.level)} failed the canaries {', '.join(broken)}"
        return f"level {int(self.level)} withstood all {len(self.canaries)} canaries"


def prove(level: Level, interpreter: str) -> Proof:
    """Runs the canaries of a level on a fork server of its own, once per process; see `canaries`."""
    key = (level, interpreter, os.geteuid())
    with _lock:
        if key not in _proofs:
            _proofs[key] = _tried(level, interpreter)
        return _proofs[key]


def highest(lowest: Level, ceiling: Level, interpreter: str) -> Proof:
    """The proof of the highest level of these two and between that holds.

    Raises:
        InputError: if none does, with what failed at each.
    """
    failed = []
    for number in range(ceiling, lowest - 1, -1):
        proof = prove(Level(number), interpreter)
        if proof.holds:
            return proof
        failed.append(str(proof))
    raise InputError(
        f"no sandbox of level {int(lowest)} or above on this machine, so untrusted programs are not run: "
        f"{'; '.join(failed)}. Use a Linux kernel with Landlock (5.13 or newer) and seccomp, or an external sandbox "
        "(CommandSandbox, level 4); level 1 only if you accept unconfined code (see docs/sandbox.md)"
    )


def _tried(level: Level, interpreter: str) -> Proof:
    server = ForkServer(level, interpreter)
    try:
        canaries = withstands(server)
        facts = {"user": str(server.facts["user"]), "landlock_abi": str(server.facts["landlock_abi"])}
        return Proof(level, interpreter, canaries, facts=facts)
    except SandboxFailure as failure:
        return Proof(level, interpreter, failure=str(failure))
    finally:
        server.close()


def forget() -> None:
    """Drops all proofs: the next question runs the canaries again."""
    with _lock:
        _proofs.clear()


_lock = threading.Lock()
_proofs: dict[tuple[Level, str, int], Proof] = {}
