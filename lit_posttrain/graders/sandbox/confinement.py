"""What a forked child does to itself before it runs a program: the layers of its level, in the only order that works.

Standard library only: the fork server loads this file. All that is costly (rules of Landlock, bytes of the seccomp
filter) is built once, in the server, before it gives anything up.
"""

import ctypes
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lit_posttrain.graders.sandbox import landlock, namespaces, rlimits, seccomp
from lit_posttrain.graders.sandbox.visible import interpreter_files

NOBODY = 65534
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 1, 4, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
SIGKILL = 9
M_ARENA_MAX = -8
CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def prepare(level: int) -> tuple["Confinement", dict[str, Any]]:
    """What a server does before its first child: enters its namespaces, makes the rules.

    Returns:
        The confinement, and what the server says about itself: `user` of its programs, `landlock_abi`, names of its
        `namespaces`.

    Raises:
        OSError: if the system refuses a layer of this level.
    """
    _libc.mallopt(M_ARENA_MAX, 1)  # each further arena would take 64 MiB of a program's address space
    visible, privileged = interpreter_files(), os.geteuid() == 0
    if level >= 3:
        privileged = namespaces.unshare_all() == "privileged"
        namespaces.fork_first_process()
        names = namespaces.numbers()
        namespaces.enter_small_root(visible.mounted)
    else:
        names = {}
    drops_user = level >= 2 and privileged and _succeeds(_read_as_nobody)
    counts_threads = level >= 3 and _succeeds(namespaces.enter_user_namespace)
    confinement = Confinement(level, visible.readable, drops_user, counts_threads)
    user = "65534" if drops_user else "the caller's, without capabilities"
    return confinement, {"user": user, "landlock_abi": landlock.abi(), "namespaces": names}


@dataclass
class Confinement:
    """The layers for one server's children.

    Args:
        level: 1 (limits only), 2 (Landlock and seccomp beside them) or 3 (in namespaces of the server).
        readable: Paths that programs may read, folders with all below them.
        drops_user: Whether children become user 65534; only root can.
        counts_threads: Whether each child can have a user namespace, which counts its threads.
    """

    level: int
    readable: list[str]
    drops_user: bool
    counts_threads: bool
    ruleset: int = field(init=False, default=-1)
    filters: dict[bool, seccomp.Filter] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.level >= 2:
            self.ruleset = landlock.ruleset(self.readable)
            self.filters = {scratch: seccomp.Filter(writes_files=scratch) for scratch in (False, True)}

    def enter(self, limits: Mapping[str, Any], parent: int, last_fd: int) -> None:
        """Confines this process for good; afterwards only descriptors up to `last_fd` are open.

        Args:
            limits: The fields of `interface.Limits`.
            parent: The server's process id, to notice its death.
            last_fd: The highest descriptor that stays open.

        Raises:
            OSError: if a layer cannot be put on; nothing may run then.
        """
        ruleset, scratch = self.ruleset, limits["scratch_mib"] > 0
        if scratch:
            ruleset = self._with_scratch(limits["scratch_mib"])
        self._give_up_privileges()
        _prctl(PR_SET_PDEATHSIG, SIGKILL)
        if os.getppid() != parent:
            raise OSError("the fork server is gone")
        rlimits.lower(limits, counts_threads=self.counts_threads)
        _prctl(PR_SET_NO_NEW_PRIVS, 1)
        if self.level >= 2:
            landlock.restrict(ruleset)
        os.closerange(last_fd + 1, rlimits.SERVER_DESCRIPTORS)
        if self.level >= 2:
            self.filters[scratch].install()

    def _with_scratch(self, size_mib: int) -> int:
        if self.level < 3:
            raise OSError("a scratch folder needs level 3")
        namespaces.mount_scratch(size_mib, NOBODY if self.drops_user else os.geteuid())
        return landlock.ruleset(self.readable, writable=[namespaces.SCRATCH])

    def _give_up_privileges(self) -> None:
        if self.drops_user:
            _become_nobody()
        if self.counts_threads:
            namespaces.enter_user_namespace()
        drop_capabilities()
        _prctl(PR_SET_DUMPABLE, 0)


def _become_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def _read_as_nobody() -> None:
    """An interpreter under a private home is of no use to another user."""
    _become_nobody()
    os.listdir(os.path.dirname(os.__file__))
    with open(os.__file__, "rb") as file:
        file.read(1)


def _succeeds(attempt: Callable[[], None]) -> bool:
    """Whether this works, tried in a child, since it cannot be undone."""
    pid = os.fork()
    if pid == 0:
        try:
            attempt()
            os._exit(0)
        except OSError:
            os._exit(1)
        finally:
            os._exit(2)
    return os.waitpid(pid, 0)[1] == 0


def drop_capabilities() -> None:
    """Gives up all capabilities; as nothing can be executed later, none comes back.

    Raises:
        OSError: if the kernel refuses.
    """
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    empty = (ctypes.c_uint32 * 6)()
    if _libc.capset(header, empty) != 0:
        raise OSError(ctypes.get_errno(), "capset")
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, argument, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")
