"""The filter, run as the kernel would: by a small interpreter of its instructions, written for this test."""

import errno
import struct

import pytest

from lit_posttrain.graders.sandbox import seccomp, syscalls
from lit_posttrain.graders.sandbox.seccomp import ALLOW, KILL, Filter

PID = 4321
REFUSED = 0x00050000 | errno.EPERM
MISSING = 0x00050000 | errno.ENOSYS


def answer(machine, name, *arguments, writes_files=False, audit=None, number=None):
    """What the filter of a machine type says to a call."""
    architecture = syscalls.ARCHITECTURES[machine]
    program = Filter(writes_files=writes_files).template.replace(
        struct.pack("=I", seccomp.OWN_PID), struct.pack("=I", PID)
    )
    number = architecture.numbers[name] if number is None else number
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, audit or architecture.audit, 0, *padded)
    return execute(list(struct.iter_unpack("=HBBI", program)), data)


def execute(program, data):
    position, value = 0, 0
    while True:
        code, if_true, if_false, k = program[position]
        position += 1
        match code:
            case 0x20:  # load a word
                (value,) = struct.unpack_from("<I", data, k)
            case 0x54:  # and
                value &= k
            case 0x05:  # jump
                position += k
            case 0x15:  # equal
                position += if_true if value == k else if_false
            case 0x35:  # at least
                position += if_true if value >= k else if_false
            case 0x06:
                return k


@pytest.fixture(params=["x86_64", "aarch64"], autouse=True)
def machine(request, monkeypatch):
    monkeypatch.setattr(seccomp, "here", lambda: syscalls.ARCHITECTURES[request.param])
    return request.param


@pytest.mark.parametrize(
    "name", ["read", "write", "mmap", "futex", "exit_group", "clock_gettime", "getrandom", "statx"]
)
def test_harmless_calls_pass(machine, name):
    assert answer(machine, name) == ALLOW


@pytest.mark.parametrize(
    "name",
    [
        "socket",
        "connect",
        "execve",
        "execveat",
        "ptrace",
        "process_vm_readv",
        "process_vm_writev",
        "unshare",
        "setns",
        "mount",
        "bpf",
        "keyctl",
        "perf_event_open",
        "userfaultfd",
        "memfd_create",
        "io_uring_setup",
        "personality",
        "pidfd_open",
        "pidfd_getfd",
        "seccomp",
        "setrlimit",
        "rt_sigqueueinfo",
        "landlock_create_ruleset",
    ],
)
def test_dangerous_calls_do_not(machine, name):
    assert answer(machine, name) == REFUSED


def test_only_this_machines_convention_counts(machine):
    assert answer(machine, "read", audit=0x40000003) == KILL  # 32-bit x86
    assert answer(machine, "read", number=0x40000000) == REFUSED  # x32
    assert answer(machine, "read", number=5000) == REFUSED


def test_threads_start_but_processes_do_not(machine):
    assert answer(machine, "clone", 0x003D0F00) == ALLOW  # what pthread_create asks for
    assert answer(machine, "clone", 17) == REFUSED  # fork: SIGCHLD only
    assert answer(machine, "clone", 0x00004111) == REFUSED  # vfork
    for namespace in (0x20000, 0x10000000, 0x40000000):
        assert answer(machine, "clone", 0x003D0F00 | namespace) == REFUSED
    assert answer(machine, "clone3") == MISSING


@pytest.mark.parametrize("name", ["kill", "tgkill", "tkill"])
def test_signals_reach_this_process_only(machine, name):
    assert answer(machine, name, PID) == ALLOW
    for other in (PID + 1, 0, 1, 2**64 - 1, 2**32 - 1, 2**32 - PID):
        assert answer(machine, name, other) == REFUSED


def test_limits_are_read_not_set(machine):
    assert answer(machine, "prlimit64", 0, 7, 0, 0xFFFF) == ALLOW
    assert answer(machine, "prlimit64", PID, 7, 0, 0xFFFF) == ALLOW
    assert answer(machine, "prlimit64", 1, 7, 0, 0xFFFF) == REFUSED
    assert answer(machine, "prlimit64", 0, 7, 0x1000, 0) == REFUSED
    assert answer(machine, "prlimit64", 0, 7, 1 << 40, 0) == REFUSED, "the high half counts"


def test_arguments_that_send_signals_or_reach_others_are_refused(machine):
    assert answer(machine, "fcntl", 0, 4) == ALLOW
    for command in (8, 10, 15, 1024, 1031):  # F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_SETPIPE_SZ
        assert answer(machine, "fcntl", 0, command) == REFUSED
    assert answer(machine, "ioctl", 0, 0x5401) == ALLOW
    assert answer(machine, "ioctl", 0, 0x5412) == REFUSED  # TIOCSTI
    assert answer(machine, "socketpair", 1) == ALLOW
    assert answer(machine, "socketpair", 2) == REFUSED
    assert answer(machine, "sendto", 3, 0, 0, 0, 0) == ALLOW
    assert answer(machine, "sendto", 3, 0, 0, 0, 1 << 33) == REFUSED
    assert answer(machine, "prctl", 15) == ALLOW
    assert answer(machine, "prctl", 1) == REFUSED  # the signal at the server's death stays


def test_a_file_is_not_emptied_by_opening_it_to_read(machine):
    assert answer(machine, "openat", 0, 0, 0o0) == ALLOW
    assert answer(machine, "openat", 0, 0, 0o1101) == ALLOW  # to write: Landlock's business
    assert answer(machine, "openat", 0, 0, 0o1000) == REFUSED


def test_names_of_files_change_only_with_a_scratch_folder(machine):
    for name in ("mkdirat", "unlinkat", "renameat2"):
        assert answer(machine, name) == REFUSED
        assert answer(machine, name, writes_files=True) == ALLOW


def test_the_kernel_takes_no_more_than_4096_instructions(machine):
    assert len(Filter(writes_files=True).template) // 8 < 4096
