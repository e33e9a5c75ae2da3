"""What a sandbox offers, whoever provides it: programs put in a box, called with plain data or run as scripts."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, Self

from lit_posttrain.errors import InputError


class Level(IntEnum):
    """How well a program is confined; docs/sandbox.md says what each keeps out."""

    REFUSED = 0
    LIMITED = 1
    CONFINED = 2
    ISOLATED = 3
    EXTERNAL = 4


class End(StrEnum):
    """How a call, a script or a judgement ended. All but the last are caused by the program."""

    RETURNED = "returned"
    RAISED = "raised"
    DIED = "died"
    TIMEOUT = "timeout"
    MEMORY_LIMIT = "memory_limit"
    OUTPUT_LIMIT = "output_limit"
    PROTOCOL_ERROR = "protocol_error"
    REJECTED = "rejected"
    SANDBOX_ERROR = "sandbox_error"


@dataclass(frozen=True)
class Limits:
    """What one program may use, over all of its calls.

    Args:
        cpu_s: Seconds of CPU, enforced by the kernel in whole seconds, rounded up.
        wall_s: Seconds from start to end, enforced from outside by a kill.
        memory_mib: Address space in MiB.
        output_kib: KiB of printed text, and of each returned value.
        source_kib: KiB of program text; longer ones are rejected unread.
        scratch_mib: MiB of a temporary folder that the program may write to; 0 gives none. Needs level 3.
        threads: Threads that a program may have.
    """

    cpu_s: float = 4.0
    wall_s: float = 8.0
    memory_mib: int = 512
    output_kib: int = 1024
    source_kib: int = 256
    scratch_mib: int = 0
    threads: int = 32

    def __post_init__(self) -> None:
        for name in ("cpu_s", "wall_s", "memory_mib", "output_kib", "source_kib", "threads"):
            if getattr(self, name) <= 0:
                raise InputError(f"sandbox limit {name} must be above 0 (got {getattr(self, name)})")
        if self.scratch_mib < 0:
            raise InputError(f"sandbox limit scratch_mib must not be negative (got {self.scratch_mib})")


@dataclass(frozen=True)
class Reference:
    """Stands for an object that stays inside a box; equal to nothing but itself.

    `number` names it within its box, `kind` is the name of its type as the program reports it.
    """

    number: int
    kind: str = ""


@dataclass(frozen=True)
class Reply:
    """How something ended, and what came out.

    `value` is plain data (see `plain.py`) or a Reference; `arguments` are the arguments as the call left them,
    where that was asked for. `error` is the name of the exception class that ended it, `note` a short ASCII text
    for people. `printed` is stdout. Nothing in here was executed, compared or unpickled on this side.
    """

    end: End
    value: Any = None
    arguments: Sequence[Any] = ()
    error: str = ""
    note: str = ""
    printed: bytes = b""


class Box(ABC):
    """One program that was put in a box; it is loaded before the first call. Use as a context manager.

    Every method may be called from any thread, one at a time, and never raises on what the program does. After an
    end other than RETURNED and RAISED, all further replies are the same end.
    """

    @abstractmethod
    def call(
        self,
        target: str | Reference,
        arguments: Sequence[Any] = (),
        keywords: Mapping[str, Any] | None = None,
        *,
        keeps_objects: bool = False,
        tells_arguments: bool = False,
    ) -> Reply:
        """Calls a function by name, or an object.

        Args:
            target: A global name of the program, dotted for an attribute, or an object in the box.
            arguments: Plain data, or References to objects of this box.
            keywords: The same by name.
            keeps_objects: Answer a result that is no plain data by a Reference; else it is PROTOCOL_ERROR's
                milder case: RETURNED with a `Reference` of number -1, equal to nothing.
            tells_arguments: Send the arguments back as the call left them.
        """

    @abstractmethod
    def get(self, target: str | Reference, name: str = "") -> Reply:
        """A global of the program, or an attribute of it or of an object; always as with `keeps_objects`."""

    @abstractmethod
    def set(self, target: Reference, name: str, value: Any) -> Reply:
        """Sets an attribute of an object."""

    @abstractmethod
    def close(self) -> None:
        """Kills the program and all it started."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Question:
    """What trusted test code asks of the program under test: `call`, `get` or `set`, as the methods of a Box."""

    kind: str
    target: str | Reference
    name: str = ""
    arguments: Sequence[Any] = ()
    keywords: Mapping[str, Any] | None = None


class Sandbox(ABC):
    """Runs programs that nobody trusts. Usable from any thread; several programs run side by side."""

    @property
    @abstractmethod
    def level(self) -> Level:
        """What the box is proved to keep in."""

    @abstractmethod
    def facts(self) -> dict[str, str]:
        """What to log as tags of a run: `sandbox.level`, `sandbox.kernel`, `sandbox.landlock_abi`, …"""

    @abstractmethod
    def open(self, source: str, limits: Limits) -> Box:
        """Puts a program in a box of its own. Does not raise on the program's text."""

    @abstractmethod
    def script(self, source: str, stdin: bytes, limits: Limits) -> Reply:
        """Runs a program as `__main__` with this input, to its end; `printed` is what it wrote to stdout."""

    @abstractmethod
    def judge(self, tests: str, ask: Callable[[Question], Reply], limits: Limits) -> Reply:
        """Runs trusted test code in a box of its own, in which the names it lacks stand for the program under test.

        Questions about them are answered by `ask`, in the calling thread. RETURNED means that the tests went through,
        RAISED with `error` "AssertionError" that one failed.
        """

    @abstractmethod
    def close(self) -> None:
        """Ends all processes; a later call starts new ones."""
