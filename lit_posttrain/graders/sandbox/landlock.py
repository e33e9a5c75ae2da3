"""Landlock: which files a program may read. Rules are made once and put on every child.

Standard library only: the fork server loads this file. Source: Linux Documentation/userspace-api/landlock.rst and
include/uapi/linux/landlock.h; the call numbers are the same on all architectures.
"""

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
VERSION_FLAG, PATH_BENEATH = 1, 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = 1, 2, 4, 8, 16, 32
MAKE_DIR, MAKE_REG, TRUNCATE = 1 << 7, 1 << 8, 1 << 14
FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""All rights on files that an ABI knows (REFER with 2, TRUNCATE with 3, IOCTL_DEV with 5): what is named, is denied."""

TCP_RIGHTS, TCP_ABI = 3, 4
SCOPES, SCOPE_ABI = 3, 6
"""Scopes: abstract unix sockets and signals stay within the program."""

_libc = ctypes.CDLL(None, use_errno=True)


def abi() -> int:
    """The kernel's Landlock version; 0 where it has none, or a filter denies it."""
    version = _libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(VERSION_FLAG))
    return max(version, 0)


def ruleset(readable: Iterable[str], writable: Iterable[str] = ()) -> int:
    """A descriptor of the rules: `readable` may be read, with all below, `writable` changed too, nothing else opened.

    Paths that do not exist are passed over. `/dev/null` may always be written.

    Raises:
        OSError: if the kernel has no Landlock or refuses a rule.
    """
    version = abi()
    if version < 1:
        raise OSError(errno.ENOSYS, "this kernel offers no Landlock")
    known = FILE_RIGHTS[max(number for number in FILE_RIGHTS if number <= version)]
    attributes = struct.pack(
        "QQQ", known, TCP_RIGHTS if version >= TCP_ABI else 0, SCOPES if version >= SCOPE_ABI else 0
    )
    size = 24 if version >= SCOPE_ABI else 16 if version >= TCP_ABI else 8
    rules = _checked(
        _libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0)), "create ruleset"
    )
    for path in readable:
        _allow(rules, path, (READ_FILE | READ_DIR) & known)
    change = READ_FILE | READ_DIR | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | TRUNCATE
    for path in writable:
        _allow(rules, path, change & known)
    _allow(rules, os.devnull, (READ_FILE | WRITE_FILE | TRUNCATE) & known)
    return rules


def restrict(rules: int) -> None:
    """Puts the rules on this process for good; needs no_new_privs.

    Raises:
        OSError: if the kernel refuses.
    """
    _checked(_libc.syscall(RESTRICT_SELF, ctypes.c_int(rules), ctypes.c_uint32(0)), "restrict self")


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError, NotADirectoryError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= READ_FILE | WRITE_FILE | TRUNCATE
        rule = struct.pack("=Qi", rights, place)
        _checked(
            _libc.syscall(
                ADD_RULE, ctypes.c_int(rules), ctypes.c_int(PATH_BENEATH), rule, ctypes.c_uint32(0)
            ),
            f"add a rule for {path}",
        )
    finally:
        os.close(place)


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"Landlock: {what}")
    return result
