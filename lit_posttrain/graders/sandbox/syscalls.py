"""Numbers of the system calls that a confined program may make, and of those that are answered apart.

Standard library only: the fork server loads this file. Sources: Linux arch/x86/entry/syscalls/syscall_64.tbl and
include/uapi/asm-generic/unistd.h (aarch64). A name that an architecture lacks does not exist there.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """One machine type: what the kernel calls it in a filter (`audit`), and its call numbers."""

    audit: int
    numbers: Mapping[str, int]


def _words(text: str) -> list[str]:
    return text.split()


ALLOWED = _words(
    # descriptors that are open already
    "read write readv writev pread64 pwrite64 preadv pwritev lseek close close_range dup dup2 dup3 pipe pipe2 fstat "
    "fsync fdatasync flock fadvise64 ftruncate poll ppoll select pselect6 epoll_create1 epoll_ctl epoll_wait "
    "epoll_pwait eventfd2 getsockname getpeername getsockopt recvfrom shutdown "
    # names of files; Landlock decides which of them open
    "stat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat getcwd chdir fchdir getdents64 "
    "statfs fstatfs umask "
    # memory
    "brk mmap munmap mremap mprotect madvise mincore membarrier "
    # threads and signals within the process
    "futex futex_waitv set_robust_list get_robust_list set_tid_address rseq gettid arch_prctl exit exit_group "
    "rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack pause "
    "restart_syscall sched_yield sched_getaffinity getcpu wait4 waitid "
    # clocks
    "clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times getrusage alarm getitimer setitimer "
    # who and where am I
    "getpid getppid getuid geteuid getgid getegid getgroups getresuid getresgid getpgrp getpgid getsid getrlimit "
    "uname sysinfo getrandom"
)

WRITING = _words("mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2")
"""Allowed beside, where there is a scratch folder."""

X86_64 = {
    name: number
    for number, name in enumerate(
        _words("read write open close stat fstat lstat poll lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask "
        "rt_sigreturn ioctl pread64 pwrite64 readv writev access pipe select sched_yield mremap msync mincore madvise "
        "shmget shmat shmctl dup dup2 pause nanosleep getitimer alarm setitimer getpid sendfile socket connect accept "
        "sendto recvfrom sendmsg recvmsg shutdown bind listen getsockname getpeername socketpair setsockopt getsockopt "
        "clone fork vfork execve exit wait4 kill uname")
    )
} | {
    "fcntl": 72, "flock": 73, "fsync": 74, "fdatasync": 75, "ftruncate": 77, "getcwd": 79, "chdir": 80, "fchdir": 81,
    "rename": 82, "mkdir": 83, "rmdir": 84, "unlink": 87, "symlink": 88, "readlink": 89, "chmod": 90, "umask": 95,
    "gettimeofday": 96, "getrlimit": 97, "getrusage": 98, "sysinfo": 99, "times": 100, "ptrace": 101, "getuid": 102,
    "getgid": 104, "geteuid": 107, "getegid": 108, "getppid": 110, "getpgrp": 111, "getgroups": 115, "getresuid": 118,
    "getresgid": 120, "getpgid": 121, "getsid": 124, "rt_sigpending": 127, "rt_sigtimedwait": 128,
    "rt_sigqueueinfo": 129, "rt_sigsuspend": 130, "sigaltstack": 131, "personality": 135, "statfs": 137,
    "fstatfs": 138, "prctl": 157, "arch_prctl": 158, "setrlimit": 160, "mount": 165, "gettid": 186, "tkill": 200,
    "time": 201, "futex": 202, "sched_getaffinity": 204, "getdents64": 217, "set_tid_address": 218,
    "restart_syscall": 219, "fadvise64": 221, "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230,
    "exit_group": 231, "epoll_wait": 232, "epoll_ctl": 233, "tgkill": 234, "waitid": 247, "keyctl": 250,
    "openat": 257, "mkdirat": 258, "newfstatat": 262, "unlinkat": 263, "renameat": 264, "readlinkat": 267,
    "faccessat": 269, "pselect6": 270, "ppoll": 271, "unshare": 272, "set_robust_list": 273, "get_robust_list": 274,
    "epoll_pwait": 281, "eventfd2": 290, "epoll_create1": 291, "dup3": 292, "pipe2": 293, "preadv": 295,
    "pwritev": 296, "perf_event_open": 298, "prlimit64": 302, "setns": 308, "getcpu": 309, "process_vm_readv": 310,
    "process_vm_writev": 311, "renameat2": 316, "seccomp": 317, "getrandom": 318, "memfd_create": 319, "bpf": 321,
    "execveat": 322, "userfaultfd": 323, "membarrier": 324, "statx": 332, "rseq": 334,
}  # fmt: skip

AARCH64 = {
    "getcwd": 17, "eventfd2": 19, "epoll_create1": 20, "epoll_ctl": 21, "epoll_pwait": 22, "dup": 23, "dup3": 24,
    "fcntl": 25, "ioctl": 29, "flock": 32, "mkdirat": 34, "unlinkat": 35, "renameat": 38, "mount": 40, "statfs": 43,
    "fstatfs": 44, "ftruncate": 46, "faccessat": 48, "chdir": 49, "fchdir": 50, "openat": 56, "close": 57,
    "pipe2": 59, "getdents64": 61, "lseek": 62, "read": 63, "write": 64, "readv": 65, "writev": 66, "pread64": 67,
    "pwrite64": 68, "preadv": 69, "pwritev": 70, "pselect6": 72, "ppoll": 73, "readlinkat": 78, "newfstatat": 79,
    "fstat": 80, "fsync": 82, "fdatasync": 83, "personality": 92, "exit": 93, "exit_group": 94, "waitid": 95,
    "set_tid_address": 96, "unshare": 97, "futex": 98, "set_robust_list": 99, "get_robust_list": 100,
    "nanosleep": 101, "getitimer": 102, "setitimer": 103, "clock_gettime": 113, "clock_getres": 114,
    "clock_nanosleep": 115, "ptrace": 117, "sched_getaffinity": 123, "sched_yield": 124, "restart_syscall": 128,
    "kill": 129, "tkill": 130, "tgkill": 131, "sigaltstack": 132, "rt_sigsuspend": 133, "rt_sigaction": 134,
    "rt_sigprocmask": 135, "rt_sigpending": 136, "rt_sigtimedwait": 137, "rt_sigqueueinfo": 138, "rt_sigreturn": 139,
    "getresuid": 148, "getresgid": 150, "times": 153, "getpgid": 155, "getsid": 156, "getgroups": 158, "uname": 160,
    "getrlimit": 163, "setrlimit": 164, "getrusage": 165, "umask": 166, "prctl": 167, "getcpu": 168,
    "gettimeofday": 169, "getpid": 172, "getppid": 173, "getuid": 174, "geteuid": 175, "getgid": 176, "getegid": 177,
    "gettid": 178, "sysinfo": 179, "socket": 198, "socketpair": 199, "connect": 203, "getsockname": 204,
    "getpeername": 205, "sendto": 206, "recvfrom": 207, "getsockopt": 209, "shutdown": 210, "brk": 214, "munmap": 215,
    "mremap": 216, "keyctl": 219, "clone": 220, "execve": 221, "mmap": 222, "fadvise64": 223, "mprotect": 226,
    "mincore": 232, "madvise": 233, "perf_event_open": 241, "wait4": 260, "prlimit64": 261, "setns": 268,
    "process_vm_readv": 270, "process_vm_writev": 271, "renameat2": 276, "seccomp": 277, "getrandom": 278,
    "memfd_create": 279, "bpf": 280, "execveat": 281, "userfaultfd": 282, "membarrier": 283, "statx": 291,
    "rseq": 293,
}  # fmt: skip

NEWER = {
    "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "open_tree": 428, "pidfd_open": 434, "clone3": 435, "close_range": 436, "openat2": 437, "pidfd_getfd": 438,
    "faccessat2": 439, "landlock_create_ruleset": 444, "landlock_add_rule": 445, "landlock_restrict_self": 446,
    "futex_waitv": 449,
}  # fmt: skip
"""The same on all architectures."""

ARCHITECTURES = {
    "x86_64": Architecture(audit=0xC000003E, numbers=X86_64 | NEWER),
    "aarch64": Architecture(audit=0xC00000B7, numbers=AARCH64 | NEWER),
}


def here() -> Architecture:
    """The architecture of this process.

    Raises:
        OSError: if there is no table for it.
    """
    machine = os.uname().machine
    if machine not in ARCHITECTURES:
        raise OSError(f"no table of system calls for {machine}; there are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[machine]
