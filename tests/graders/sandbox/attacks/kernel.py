"""Rows 31 and 32: programs that ask the kernel for new rooms, new programs, or more than their share."""

from attacks.program import probes

ROOMS = """
def attack():
    for flags in (0x10000000, 0x20000, 0x40000000, 0x20000000, 0x8000000, 0x4000000, 0x2000000, 0x80,
                  0x10000000 | 0x20000):
        attempt(syscall, "unshare", flags)
    attempt(syscall, "mount", b"none", b"/tmp", b"tmpfs", 0, 0)
    attempt(syscall, "mount", b"proc", b"/proc", b"proc", 0, 0)
    attempt(syscall, "mount", b"/", b"/", 0, 0x1000 | 0x4000, 0)
    attempt(syscall, "fsopen", b"tmpfs", 0)
    attempt(syscall, "open_tree", -100, b"/", 1)
    attempt(syscall, "chroot", b"/tmp")
    attempt(syscall, "setns", 0, 0)
    for name in ("user", "net", "mnt", "pid"):
        attempt(lambda: syscall("setns", os.open(f"/proc/self/ns/{name}", 0), 0))
    for act in (os.setuid, os.seteuid, os.setgid, os.setegid):
        attempt(lambda: 1 / (os.getuid() and act(0) is None))
    attempt(os.setgroups, [0])
    attempt(lambda: libc.sethostname(b"x", 1) == 0 or 1 / 0)
"""

MEMORY_FILES = """
def attack():
    for flags in (0, 1, 2, 4, 8, 16):
        attempt(syscall, "memfd_create", b"x", flags)
    attempt(os.memfd_create, "x")
    attempt(syscall, "memfd_secret", 0)
    attempt(syscall, "userfaultfd", 0)
    attempt(syscall, "userfaultfd", 1)
"""

PROGRAMS_OF_KERNEL = """
def attack():
    parameters = ctypes.create_string_buffer(256)
    attempt(syscall, "io_uring_setup", 4, parameters)
    attempt(syscall, "bpf", 0, parameters, 128)
    attempt(syscall, "bpf", 5, parameters, 128)
    attempt(syscall, "perf_event_open", parameters, 0, -1, -1, 0)
    attempt(syscall, "keyctl", 0, -3, 1)
    attempt(syscall, "keyctl", 1, 0)
    attempt(syscall, "pidfd_open", os.getpid(), 0)
    attempt(syscall, "process_madvise", 0, 0, 0, 0, 0)
"""

PERSONALITY = """
def attack():
    for flags in (0x0040000, 0x0400000, 0x0000008, 0x0100000, 0xFFFFFFFF):
        attempt(syscall, "personality", flags)
    attempt(lambda: libc.prctl(4, 1, 0, 0, 0) == 0 and libc.prctl(3, 0, 0, 0, 0) == 1 or 1 / 0)
    attempt(lambda: libc.prctl(36, 1, 0, 0, 0) == 0 or 1 / 0)
    attempt(lambda: libc.prctl(1, 0, 0, 0, 0) == 0 or 1 / 0)
    attempt(lambda: libc.prctl(0x59616D61, -1, 0, 0, 0) == 0 or 1 / 0)
    attempt(lambda: libc.prctl(47, 2, 21, 0, 0) == 0 or 1 / 0)
    attempt(lambda: libc.prctl(8, 1, 0, 0, 0) == 0 or 1 / 0)
    attempt(lambda: libc.prctl(38, 0, 0, 0, 0) == 0 or 1 / 0)
"""

OTHER_ABIS = """
import mmap


def attack():
    if MACHINE == "x86_64":
        attempt(syscall, 0x40000000 | 41, 2, 1, 0)
        attempt(syscall, 0x40000000 | 272, 0x10000000)
        attempt(old_gate)


def old_gate():
    # unshare(CLONE_NEWUSER) as 32-bit programs ask for it
    code = bytes.fromhex("53b836010000bb00000010cd805bc3")
    page = mmap.mmap(-1, 4096, prot=7)
    page.write(code)
    run = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    if run() != 0:
        raise OSError
    return "a user namespace by the 32-bit gate"
"""

OWN_FILTERS = """
def attack():
    # a filter of one instruction that allows everything; the stricter one must go on to hold
    instruction = (ctypes.c_uint64 * 1)(0x7FFF000000000006)
    program = ctypes.create_string_buffer(16)
    ctypes.c_ushort.from_buffer(program, 0).value = 1
    ctypes.c_void_p.from_buffer(program, 8).value = ctypes.addressof(instruction)
    try:
        syscall("seccomp", 1, 0, program)
    except OSError:
        libc.prctl(22, 2, program, 0, 0)
    attempt(syscall, "socket", 2, 1, 0)
    attempt(syscall, "unshare", 0x10000000)
    attempt(syscall, "memfd_create", b"x", 0)
    attempt(lambda: open("@SECRET_FILE@").read())
"""

RESOURCE_LIMITS = """
import resource


def raised(name):
    kind = getattr(resource, name)
    soft, hard = resource.getrlimit(kind)
    if hard == resource.RLIM_INFINITY:
        raise OSError("there is no limit to raise")
    resource.setrlimit(kind, (hard * 2 + 1, hard * 2 + 1))
    return name


def unlimited(name):
    kind = getattr(resource, name)
    if resource.getrlimit(kind)[1] == resource.RLIM_INFINITY:
        raise OSError("there is no limit to raise")
    resource.setrlimit(kind, (resource.RLIM_INFINITY,) * 2)
    return name


NAMES = ("RLIMIT_CPU", "RLIMIT_AS", "RLIMIT_FSIZE", "RLIMIT_NPROC", "RLIMIT_CORE", "RLIMIT_NOFILE", "RLIMIT_STACK",
         "RLIMIT_DATA", "RLIMIT_MEMLOCK")


def attack():
    for name in NAMES:
        attempt(raised, name)
        attempt(unlimited, name)
    for name in ("RLIMIT_CPU", "RLIMIT_AS", "RLIMIT_FSIZE"):
        if resource.getrlimit(getattr(resource, name))[1] == resource.RLIM_INFINITY:
            GOT.append(name + " has no limit")
    if resource.getrlimit(resource.RLIMIT_CORE)[1]:
        GOT.append("cores may be dumped")
    attempt(lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1)))
    attempt(os.nice, -1)
    attempt(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
    attempt(lambda: os.sched_setaffinity(os.getppid() or 1, {0}))
"""

PROGRAMS = [
    *probes(31, "rooms", ROOMS, syscalls=True),
    *probes(31, "memory_files", MEMORY_FILES, syscalls=True),
    *probes(31, "kernel_programs", PROGRAMS_OF_KERNEL, syscalls=True),
    *probes(31, "personality", PERSONALITY, syscalls=True),
    *probes(31, "other_abis", OTHER_ABIS, syscalls=True, died=True),
    *probes(31, "own_filters", OWN_FILTERS, syscalls=True, died=True),
    *probes(32, "resource_limits", RESOURCE_LIMITS),
]
