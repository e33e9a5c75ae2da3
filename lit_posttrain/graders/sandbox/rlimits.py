"""Kernel limits of one program: CPU seconds, address space, file size, descriptors, threads.

Standard library only: the fork server loads this file.
"""

import math
import resource
from collections.abc import Mapping

MIB = 1 << 20
DESCRIPTORS = 64
SERVER_DESCRIPTORS = 1024
MAIN_STACK_MIB = 64
GRACE_S = 1
"""From SIGXCPU, which a program may ignore, to SIGKILL."""


def lower(limits: Mapping[str, float], *, counts_threads: bool) -> None:
    """Lowers the limits of this process, hard and soft; none can be raised again without privileges.

    SIGXCPU comes after `cpu_s` and SIGKILL one second later: both mean that the time was up. Without a scratch
    folder no byte of any file can be written.

    Args:
        limits: The fields of `interface.Limits`.
        counts_threads: Whether the count of processes is this program's own (a user namespace for it alone); else
            it would count all processes of the user, and threads are bounded by the address space only.
    """
    cpu_s = math.ceil(limits["cpu_s"])
    memory = int(limits["memory_mib"]) * MIB
    stack = min(MAIN_STACK_MIB * MIB, memory)
    file_size = int(limits["scratch_mib"]) * MIB
    _lower(resource.RLIMIT_CPU, cpu_s, cpu_s + GRACE_S)
    _lower(resource.RLIMIT_FSIZE, file_size)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_NOFILE, DESCRIPTORS)
    _lower(resource.RLIMIT_STACK, stack)
    _lower(resource.RLIMIT_MEMLOCK, 0)
    _lower(resource.RLIMIT_MSGQUEUE, 0)
    _lower(resource.RLIMIT_RTPRIO, 0)
    if counts_threads:
        _lower(resource.RLIMIT_NPROC, int(limits["threads"]))
    _lower(resource.RLIMIT_AS, memory)


def _lower(kind: int, soft: int, hard: int | None = None) -> None:
    """Sets a limit, but never above the one that is already there."""
    _, ceiling = resource.getrlimit(kind)
    hard = soft if hard is None else hard
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.setrlimit(kind, (soft, hard))
