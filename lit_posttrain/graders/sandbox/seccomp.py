"""The filter of system calls of a confined program: an allow-list, assembled to BPF and installed by ctypes.

Standard library only: the fork server loads this file. Source: Linux Documentation/userspace-api/seccomp_filter.rst.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Iterable

from lit_posttrain.graders.sandbox.syscalls import ALLOWED, WRITING, here

Instructions = list[tuple[int, int, int, int]]

LOAD, JUMP, EQUAL, AT_LEAST, AND, RETURN = 0x20, 0x05, 0x15, 0x35, 0x54, 0x06
LEAF_BLOCKS = 4
ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000
NUMBER_OFFSET, ARCHITECTURE_OFFSET, ARGUMENTS_OFFSET = 0, 4, 16
X32_BIT = 0x40000000
OWN_PID = 0xFFFFFFF1
"""Stands for the process id in a filter that is made before the process."""

THREAD_FLAGS = 0x00010900
OTHER_CLONE_FLAGS = 0xFE82E000
"""CLONE_VM, SIGHAND and THREAD must be set; no new namespace, vfork, tracing or foreign parent."""

NAMING = (15, 16, 0x53564D41)
HARMLESS_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""
HARMLESS_FCNTLS = (0, 1, 2, 3, 4, 5, 6, 7, 1030)
"""Duplicates, flags and locks; not F_SETOWN and its like, which send signals."""
UNIX_SOCKETS = 1

_libc = ctypes.CDLL(None, use_errno=True)


class Filter:
    """The allow-list as a program for the kernel. All calls that it does not know get EPERM.

    Threads may be started, processes not; signals reach this process only; limits are read, not set; there are no
    sockets but connected pairs, and these send to their other end only.
    """

    def __init__(self, *, writes_files: bool) -> None:
        """Assembles it for this machine.

        Args:
            writes_files: Whether names of files may be changed (Landlock decides where).

        Raises:
            OSError: if there is no table of calls for this architecture.
        """
        numbers = here().numbers
        names = ALLOWED + (WRITING if writes_files else [])
        blocks = [(numbers[name], give(ALLOW)) for name in names if name in numbers]
        blocks += [(numbers[name], body) for name, body in _special().items() if name in numbers]
        self.template = assemble(blocks, otherwise=refuse(errno.EPERM))

    def install(self) -> None:
        """Puts the filter on this thread for good; needs no_new_privs.

        Raises:
            OSError: if the kernel refuses.
        """
        own = struct.pack("=I", os.getpid())
        install(self.template.replace(struct.pack("=I", OWN_PID), own))


def assemble(blocks: Iterable[tuple[int, Instructions]], otherwise: Instructions) -> bytes:
    """A filter: per call number instructions that end in a return, and what happens to all other calls.

    A call by another architecture's convention kills the process; x32 calls are refused.
    """
    code: Instructions = [(LOAD, 0, 0, ARCHITECTURE_OFFSET), (EQUAL, 1, 0, here().audit), *give(KILL)]
    code += [(LOAD, 0, 0, NUMBER_OFFSET), (AT_LEAST, 0, 1, X32_BIT), *refuse(errno.EPERM)]
    code += _tree(sorted(blocks), otherwise)
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _tree(blocks: list[tuple[int, Instructions]], otherwise: Instructions) -> Instructions:
    """Finds the block of a call by halves: the kernel tries all numbers when a filter is installed."""
    if len(blocks) <= LEAF_BLOCKS:
        code: Instructions = []
        for number, body in blocks:
            code += [(EQUAL, 0, len(body), number), *body]
        return code + otherwise
    middle = len(blocks) // 2
    lower = _tree(blocks[:middle], otherwise)
    return [
        (AT_LEAST, 0, 1, blocks[middle][0]),
        (JUMP, 0, 0, len(lower)),
        *lower,
        *_tree(blocks[middle:], otherwise),
    ]


def install(program: bytes) -> None:
    """Gives a filter to the kernel.

    Raises:
        OSError: if the kernel refuses.
    """
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    if _libc.prctl(22, 2, header, 0, 0) != 0:  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        raise OSError(ctypes.get_errno(), "seccomp filter")


def give(action: int) -> Instructions:
    """Ends with this action."""
    return [(RETURN, 0, 0, action)]


def refuse(number: int) -> Instructions:
    """Ends with an error for the caller."""
    return give(ERROR | number)


def argument(position: int, *, high: bool = False) -> tuple[int, int, int, int]:
    """Loads the low (or high) 32 bits of an argument."""
    return LOAD, 0, 0, ARGUMENTS_OFFSET + 8 * position + 4 * high


def one_of(position: int, values: Iterable[int]) -> Instructions:
    """Allows the call if the low half of this argument is one of these values, else EPERM."""
    code: Instructions = [argument(position)]
    for value in values:
        code += [(EQUAL, 0, 1, value & 0xFFFFFFFF), *give(ALLOW)]
    return code + refuse(errno.EPERM)


def masked(
    position: int, mask: int, value: int, if_equal: Instructions, otherwise: Instructions
) -> Instructions:
    """Decides by some bits of an argument."""
    return [argument(position), (AND, 0, 0, mask), (EQUAL, 0, len(if_equal), value), *if_equal, *otherwise]


def is_null(position: int, then: Instructions) -> Instructions:
    """EPERM unless this pointer is NULL."""
    denied = refuse(errno.EPERM)
    code: Instructions = [argument(position), (EQUAL, 1, 0, 0), *denied]
    return [*code, argument(position, high=True), (EQUAL, 1, 0, 0), *denied, *then]


def _special() -> dict[str, Instructions]:
    """Calls that are allowed with some arguments only, or refused in another way than by EPERM."""
    truncates = os.O_ACCMODE | os.O_TRUNC
    return {
        "clone": masked(0, THREAD_FLAGS | OTHER_CLONE_FLAGS, THREAD_FLAGS, give(ALLOW), refuse(errno.EPERM)),
        "clone3": refuse(errno.ENOSYS),  # libraries then fall back to clone; EPERM would break threads
        "openat2": refuse(errno.ENOSYS),
        "kill": one_of(0, [OWN_PID]),
        "tgkill": one_of(0, [OWN_PID]),
        "tkill": one_of(0, [OWN_PID]),
        "prctl": one_of(0, NAMING),
        "prlimit64": is_null(2, one_of(0, [0, OWN_PID])),
        "ioctl": one_of(1, HARMLESS_IOCTLS),
        "fcntl": one_of(1, HARMLESS_FCNTLS),
        "socketpair": one_of(0, [UNIX_SOCKETS]),
        "sendto": is_null(4, give(ALLOW)),
        # Landlock before ABI 3 lets a readable file be emptied by opening it to read
        "open": masked(1, truncates, os.O_TRUNC, refuse(errno.EPERM), give(ALLOW)),
        "openat": masked(2, truncates, os.O_TRUNC, refuse(errno.EPERM), give(ALLOW)),
    }
