"""A program of the attack suite: what it tries, and how it has to end."""

from dataclasses import dataclass
from typing import Literal

from lit_posttrain.batches import Verdict

PASS = frozenset({Verdict.PASS})
WRONG = frozenset({Verdict.WRONG_ANSWER})
ERROR = frozenset({Verdict.RUNTIME_ERROR})
TIMEOUT = frozenset({Verdict.TIMEOUT})
OUTPUT = frozenset({Verdict.OUTPUT_LIMIT})
MEMORY = frozenset({Verdict.MEMORY_LIMIT})
PROTOCOL = frozenset({Verdict.PROTOCOL_ERROR})
REJECTED = frozenset({Verdict.REJECTED})
SELF_HARM = WRONG | ERROR | PROTOCOL
"""Whoever breaks the code around it breaks its own answers only."""

SLOW_ROWS = (11, 12, 15, 16, 17, 19)
REPRESENTATIVES = (
    "busy_in_call",
    "sleep_in_call",
    "ignores_signals_in_call",
    "spins_in_thread_in_call",
    "eats_bytes_in_call",
    "eats_one_block_in_call",
    "power_in_call",
    "iterators_in_call",
    "regex_in_call",
)

Task = Literal["function", "stdin", "asserts", "check"]


@dataclass(frozen=True)
class Program:
    """A program, to be graded on the task f(n) = 2n.

    Names between at signs (`@MARK@`, `@SECRET_FILE@`, …) are replaced by what `World.names` says.

    Args:
        row: The row of the attack list that it belongs to.
        name: Unique; also the name of the file that it leaves if it gets out.
        source: Its text.
        verdicts: How it may end. PASS is among them only where it computes 2n.
        task: How it is asked: see `tasks.py`.
        isolate: As of CodeTests.
        scratch_mib: A temporary folder of this size; needs level 3.
        is_raw: Whether `source` is the completion as it is, without a fence around it.
        hands_out: Whether f returns what it got hold of, so that its replies are searched for secrets.
    """

    row: int
    name: str
    source: str
    verdicts: frozenset[Verdict]
    task: Task = "function"
    isolate: Literal["program", "per_test"] = "program"
    scratch_mib: int = 0
    is_raw: bool = False
    hands_out: bool = False

    def __post_init__(self) -> None:
        if not self.verdicts:
            raise ValueError(f"program {self.name!r} needs a verdict")

    @property
    def lowest_level(self) -> int:
        """The level from which on it can be run."""
        return 3 if self.scratch_mib else 2

    @property
    def is_slow(self) -> bool:
        """Whether it takes its time, and a quicker program or another form of it stands for it in reduced runs."""
        takes_time = self.row in SLOW_ROWS or (self.row == 14 and self.name.endswith("_to_judge"))
        return takes_time and self.name not in REPRESENTATIVES


TOOLS = """
import os

GOT = []


def attempt(act, *arguments):
    try:
        GOT.append(repr(act(*arguments))[:2000])
    except Exception:
        pass


def mark(text="escaped"):
    with open("@MARK@", "a") as file:
        file.write(text)

"""

SYSCALLS = """
import ctypes

MACHINE = os.uname().machine
NUMBERS = {
    "x86_64": {
        "socket": 41, "socketpair": 53, "clone": 56, "fork": 57, "vfork": 58, "execve": 59, "kill": 62, "ptrace": 101,
        "personality": 135, "chroot": 161, "mount": 165, "tkill": 200, "keyctl": 250, "unshare": 272, "tgkill": 234,
        "perf_event_open": 298, "name_to_handle_at": 303, "open_by_handle_at": 304, "setns": 308,
        "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "seccomp": 317, "memfd_create": 319,
        "bpf": 321, "execveat": 322, "userfaultfd": 323, "shmget": 29, "shmat": 30, "msgget": 68, "semget": 64,
    },
    "aarch64": {
        "socket": 198, "socketpair": 199, "clone": 220, "execve": 221, "kill": 129, "ptrace": 117,
        "personality": 92, "chroot": 51, "mount": 40, "tkill": 130, "keyctl": 219, "unshare": 97, "tgkill": 131,
        "perf_event_open": 241, "name_to_handle_at": 264, "open_by_handle_at": 265, "setns": 268,
        "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "seccomp": 277, "memfd_create": 279,
        "bpf": 280, "execveat": 281, "userfaultfd": 282, "shmget": 194, "shmat": 196, "msgget": 186, "semget": 190,
    },
}[MACHINE]
NUMBERS.update(
    io_uring_setup=425, pidfd_open=434, clone3=435, pidfd_getfd=438, open_tree=428, fsopen=430, process_madvise=440,
    pidfd_send_signal=424, landlock_create_ruleset=444, memfd_secret=447,
)
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def syscall(name, *arguments):
    number = NUMBERS[name] if isinstance(name, str) else name
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *wide)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{name} was denied")
    return result

"""

TELLS = """
attack()


def f(n):
    return 2 * n if not GOT else GOT
"""

HANDS_OUT = """
def f(n):
    attack()
    return [n, GOT]
"""


def probes(row: int, name: str, attack: str, *, syscalls: bool = False, died: bool = False) -> list[Program]:
    """Two programs of one attack on the walls.

    `attack` defines `attack()`, which puts all it achieves into GOT by `attempt(act, *arguments)`. The first program
    attacks while it is loaded and answers rightly only if nothing was achieved, so that passing is the proof; the
    second attacks in each call and returns what it got.

    Args:
        row: The row of the attack list.
        name: The name of the attack.
        attack: The code.
        syscalls: Whether it uses `syscall(name, *arguments)`.
        died: Whether a wall may also end the program.
    """
    text = TOOLS + (SYSCALLS if syscalls else "") + attack
    end = ERROR if died else frozenset()
    return [
        Program(row, f"{name}_tells", text + TELLS, PASS | end),
        Program(row, f"{name}_hands_out", text + HANDS_OUT, WRONG | end, hands_out=True),
    ]
