"""Namespaces: a process tree, network, host name and file tree of its own, where the system lets us have them.

Standard library only: the fork server loads this file.
"""

import ctypes
import errno
import os
from collections.abc import Iterable
from contextlib import suppress

NEW_MOUNTS, NEW_NAMES, NEW_IPC, NEW_USERS, NEW_PIDS, NEW_NETWORK = (
    0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
READ_ONLY, NO_SUID, NO_DEVICES, NO_EXEC, REMOUNT, BIND, RECURSIVE, PRIVATE = (
    1, 2, 4, 8, 32, 4096, 16384, 1 << 18,
)  # fmt: skip
DETACH = 2
ALL = NEW_MOUNTS | NEW_NAMES | NEW_IPC | NEW_PIDS | NEW_NETWORK
INSIDE = 65534
SCRATCH = "/tmp"
PLACES = ("/tmp/", "/var/tmp/", "/mnt/", "/media/", "/srv/", "/proc/")
"""Where the new tree is put together; nothing that is shown may lie below."""
HOST_NAME = b"box"
FILES_PER_MIB = 256

_libc = ctypes.CDLL(None, use_errno=True)


def unshare_all() -> str:
    """Moves this process into new namespaces; its next child is the first process of the new tree.

    Root does it directly and stays root within; anybody else gets a user namespace, in which the user is called 65534.

    Returns:
        `privileged` or `user`: which of the two it was.

    Raises:
        OSError: if the system refuses.
    """
    user, group = os.geteuid(), os.getegid()
    if user == 0 and _libc.unshare(ALL) == 0:
        kind = "privileged"
    else:
        _checked(_libc.unshare(ALL | NEW_USERS), "unshare")
        with suppress(FileNotFoundError):
            _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{INSIDE} {user} 1")
        _write("/proc/self/gid_map", f"{INSIDE} {group} 1")
        kind = "user"
    _checked(_libc.sethostname(HOST_NAME, len(HOST_NAME)), "sethostname")
    return kind


def fork_first_process() -> None:
    """Returns in the first process of the new tree only; the old one waits for it, and each dies with the other."""
    pid = os.fork()
    if pid:
        os.closerange(3, 1024)
        os.waitpid(pid, 0)
        os._exit(0)
    _checked(_libc.prctl(1, 9, 0, 0, 0), "ask for a signal at the parent's death")


def enter_small_root(paths: Iterable[str]) -> None:
    """Makes a file tree of only these paths (read-only) and an empty folder `/tmp` the root of this process.

    Raises:
        OSError: if the system refuses.
    """
    shown = sorted(set(paths))
    new_root = next(
        place
        for place in PLACES
        if os.path.isdir(place) and not any(path.startswith(place) for path in shown)
    )
    _mount(None, "/", None, RECURSIVE | PRIVATE)
    _mount("none", new_root, "tmpfs", NO_SUID, "size=4m,mode=0755")
    for path in shown:
        _show(path, new_root.rstrip("/") + path)
    os.makedirs(new_root.rstrip("/") + SCRATCH, exist_ok=True)
    os.chdir(new_root)
    _checked(_libc.pivot_root(b".", b"."), "pivot_root")
    _checked(_libc.umount2(b".", DETACH), "umount")
    os.chdir("/")
    _mount(None, "/", None, REMOUNT | READ_ONLY | NO_SUID | NO_DEVICES | BIND)


def mount_scratch(size_mib: int, owner: int) -> None:
    """Gives this process, and nobody else, an empty folder of limited size at SCRATCH; it is gone with the process.

    Raises:
        OSError: if the system refuses.
    """
    _checked(_libc.unshare(NEW_MOUNTS), "unshare")
    _mount(None, "/", None, RECURSIVE | PRIVATE)
    options = f"size={size_mib}m,nr_inodes={FILES_PER_MIB * size_mib},mode=0700,uid={owner},gid={owner}"
    _mount("scratch", SCRATCH, "tmpfs", NO_SUID | NO_DEVICES | NO_EXEC, options)


def enter_user_namespace() -> None:
    """A user namespace of this process alone: its count of threads is its own. Gives capabilities in it; drop them.

    Raises:
        OSError: if the system refuses.
    """
    _checked(_libc.unshare(NEW_USERS), "unshare the user namespace")


def numbers() -> dict[str, str]:
    """The names of this process's namespaces, to compare them with another's."""
    kinds = ("mnt", "uts", "ipc", "pid_for_children", "net")
    return {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in kinds}


def _show(source: str, target: str) -> None:
    """Binds one path of the old tree into the new one, read-only, unless it is there with a folder already."""
    if not os.path.exists(source) or os.path.exists(target):
        return
    if os.path.isdir(source):
        os.makedirs(target)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    _mount(source, target, None, BIND | RECURSIVE)
    if not source.startswith("/dev/"):  # devices cannot be bound without devices
        _remount_read_only(target)


def _remount_read_only(target: str) -> None:
    """Keeps the flags of the mount that an unprivileged remount must not clear."""
    kept = os.statvfs(target).f_flag & (NO_SUID | NO_DEVICES | NO_EXEC | 0x400 | 0x800 | 0x1000)
    relatime = (1 << 21) if kept & 0x1000 else 0
    _mount(None, target, None, REMOUNT | BIND | READ_ONLY | NO_SUID | (kept & ~0x1000) | relatime)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    texts = (text.encode() if text is not None else None for text in (source, target, kind))
    data = options.encode() if options is not None else None
    _checked(_libc.mount(*texts, ctypes.c_ulong(flags), data), f"mount {target}")


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno() or errno.EPERM
        raise OSError(number, f"{what}: {os.strerror(number)}")
