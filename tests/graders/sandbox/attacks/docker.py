"""A filter of system calls that takes away what Docker's default profile takes from a container without privileges."""

import ctypes
import errno

from lit_posttrain.graders.sandbox import seccomp
from lit_posttrain.graders.sandbox.syscalls import here

NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET."""
REFUSED = ("unshare", "mount", "setns", "keyctl", "bpf", "perf_event_open", "userfaultfd", "open_tree")
PR_SET_NO_NEW_PRIVS = 38


def refuse_namespaces() -> None:
    """Puts the filter on this process for good; Landlock and further filters go on to work.

    Source: moby profiles/seccomp/default_linux.go.
    """
    numbers = here().numbers
    blocks = [(numbers[name], seccomp.refuse(errno.EPERM)) for name in REFUSED if name in numbers]
    blocks.append((numbers["clone3"], seccomp.refuse(errno.ENOSYS)))
    ordinary, refused = seccomp.give(seccomp.ALLOW), seccomp.refuse(errno.EPERM)
    blocks.append((numbers["clone"], seccomp.masked(0, NAMESPACES, 0, ordinary, refused)))
    ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    seccomp.install(seccomp.assemble(blocks, otherwise=seccomp.give(seccomp.ALLOW)))
