"""Takes things away from this process, as containers and old kernels do; use it in a process of its own."""

import ctypes
import errno
import os
import sys
from collections.abc import Callable

from lit_posttrain.graders.sandbox import seccomp
from lit_posttrain.graders.sandbox.syscalls import here

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
NEW_NAMESPACES = 0x7E020000
NOBODY = 65534


def _install(blocks: dict[str, seccomp.Instructions]) -> None:
    numbers = here().numbers
    program = seccomp.assemble(
        [(numbers[name], body) for name, body in blocks.items()], otherwise=seccomp.give(seccomp.ALLOW)
    )
    ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    seccomp.install(program)


def refuse_namespaces() -> None:
    """As Docker's default profile: unshare, mount, setns and namespace bits of clone EPERM, clone3 ENOSYS."""
    denied = seccomp.refuse(errno.EPERM)
    clone = seccomp.masked(0, NEW_NAMESPACES, 0, seccomp.give(seccomp.ALLOW), denied)
    _install(
        {
            "unshare": denied,
            "setns": denied,
            "mount": denied,
            "clone": clone,
            "clone3": seccomp.refuse(errno.ENOSYS),
        }
    )


def refuse_landlock() -> None:
    """As kernels before 5.13, or without the module."""
    names = ("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self")
    _install({name: seccomp.refuse(errno.ENOSYS) for name in names})


def refuse_seccomp() -> None:
    """As kernels without seccomp filters, or sandboxes that keep them for themselves."""
    prctl = seccomp.masked(
        0, 0xFFFFFFFF, PR_SET_SECCOMP, seccomp.refuse(errno.EINVAL), seccomp.give(seccomp.ALLOW)
    )
    _install({"prctl": prctl, "seccomp": seccomp.refuse(errno.EPERM)})


def ordinary_user(*folders: str) -> None:
    """Becomes user 65534, who can read these folders, and the interpreter's, wherever they are.

    Where a folder above them is private, a file tree of our own, seen by this process only, stands in its place.

    Raises:
        OSError: if this process is not root, or may not have a file tree of its own.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    wanted = sorted({*map(os.path.realpath, folders), sys.base_prefix, sys.prefix})
    hidden = sorted({private for path in wanted for private in _private_above(path)})
    _checked(libc.unshare(0x00020000))
    _checked(libc.mount(None, b"/", None, ctypes.c_ulong(16384 | (1 << 18)), None))
    places = {path: os.open(path, os.O_PATH) for path in wanted}
    for private in hidden:
        _checked(libc.mount(b"none", private.encode(), b"tmpfs", ctypes.c_ulong(0), b"mode=0755"))
    for path, place in places.items():
        if any(path.startswith(f"{private}/") for private in hidden):
            os.makedirs(path, exist_ok=True)
            _checked(
                libc.mount(f"/proc/self/fd/{place}".encode(), path.encode(), None, ctypes.c_ulong(4096), None)
            )
        os.close(place)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def _private_above(path: str) -> list[str]:
    above = [path[:index] for index in range(1, len(path)) if path[index] == "/"]
    return [folder for folder in above if not os.stat(folder).st_mode & 0o001][:1]


def _checked(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


DEPRIVATIONS: dict[str, Callable[[], None]] = {
    "namespaces": refuse_namespaces,
    "landlock": refuse_landlock,
    "seccomp": refuse_seccomp,
}
