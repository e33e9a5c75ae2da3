"""Rows 20 and 28 to 30: programs that multiply, attack other processes or start new ones.

Signals are SIGURG, which processes ignore unless they listen (the planted neighbour does), so that a box that fails
harms nobody; bombs are bounded.
"""

from attacks.program import ERROR, MEMORY, PASS, SELF_HARM, TIMEOUT, TOOLS, WRONG, Program, probes

FORKS = """
import subprocess
import multiprocessing


def forked(fork):
    child = fork()
    if child == 0:
        mark("forked")
        os._exit(0)
    return child


def attack():
    attempt(forked, os.fork)
    attempt(forked, lambda: os.forkpty()[0])
    for name in ("fork", "vfork"):
        attempt(forked, lambda: syscall(name))
    attempt(lambda: multiprocessing.get_context("fork").Process(target=mark).start())
    attempt(lambda: multiprocessing.get_context("spawn").Process(target=mark).start())
"""

CLONES = """
def attack():
    for flags in (17, 0x4000 | 17, 0x100 | 17, 0x8000 | 17, 0x20000000 | 17, 0x10000000 | 17, 0x40000000 | 17):
        attempt(cloned, flags)
    attempt(cloned3)


def cloned(flags):
    child = syscall("clone", flags, 0, 0, 0, 0)
    if child == 0:
        mark("cloned")
        os._exit(0)
    return child


def cloned3():
    arguments = (ctypes.c_uint64 * 11)(0, 0, 0, 0, 17)
    child = syscall("clone3", ctypes.byref(arguments), 88)
    if child == 0:
        mark("cloned")
        os._exit(0)
    return child
"""

COMMANDS = """
import subprocess
import sys

COMMAND = "echo run >> @MARK@"


def attack():
    attempt(lambda: 1 / (os.system(COMMAND) == 0))
    attempt(lambda: subprocess.run(COMMAND, shell=True))
    attempt(lambda: subprocess.Popen(COMMAND, shell=True, start_new_session=True, close_fds=False))
    attempt(subprocess.run, ["/bin/sh", "-c", COMMAND])
    attempt(subprocess.check_output, [sys.executable or "/usr/bin/python3", "-c", "open('@MARK@', 'w')"])
    attempt(lambda: 1 / len(os.popen(COMMAND + "; echo done").read()))
    attempt(os.posix_spawn, "/bin/sh", ["sh", "-c", COMMAND], {})
    attempt(lambda: 1 / (os.spawnv(os.P_WAIT, "/bin/true", ["true"]) == 0))
"""

WALK = """
def attack():
    def everything(kind=object, seen=set()):
        for child in type.__subclasses__(kind):
            if child not in seen:
                seen.add(child)
                yield child
                yield from everything(child)

    import subprocess
    for kind in list(everything()):
        if kind.__name__ == "Popen":
            attempt(lambda: kind(["/bin/sh", "-c", "echo run >> @MARK@"]).wait())
    for kind in list(everything()):
        if kind.__name__ == "_wrap_close":
            spaces = kind.__init__.__globals__
            attempt(lambda: 1 / (spaces["system"]("echo run >> @MARK@") == 0))
"""

EXECS = """
import sys


def attack():
    for path in ("/bin/sh", "/bin/true", "/usr/bin/env", sys.executable or "/usr/bin/python3", "/proc/self/exe"):
        attempt(os.execve, path, [path, "-c", "echo run >> @MARK@"], {})
        attempt(syscall, "execveat", -100, ctypes.c_char_p(path.encode()), None, None, 0)
    attempt(os.execv, "/lib64/ld-linux-x86-64.so.2", ["ld", "/bin/sh", "-c", "echo run >> @MARK@"])
"""

SIGNALS = """
import fcntl
import signal
import struct


def attack():
    for process in (@GRADER@, @NEIGHBOUR@):
        attempt(os.kill, process, 0)
        attempt(os.kill, process, signal.SIGURG)
        attempt(syscall, "tkill", process, signal.SIGURG)
        attempt(syscall, "tgkill", process, process, signal.SIGURG)
        attempt(syscall, "pidfd_open", process, 0)
        attempt(os.killpg, process, signal.SIGURG)
        attempt(os.setpriority, os.PRIO_PROCESS, process, 5)
        attempt(os.sched_setaffinity, process, {0})
        attempt(lambda: __import__("resource").prlimit(process, 7, (64, 64)))
        for fd in range(0, 5):
            attempt(fcntl.fcntl, fd, 10, signal.SIGURG)
            attempt(fcntl.fcntl, fd, fcntl.F_SETOWN, process)
            attempt(fcntl.ioctl, fd, 0x8901, struct.pack("i", process))
            attempt(fcntl.ioctl, fd, 0x5452, struct.pack("i", 1))
            attempt(lambda: fcntl.fcntl(fd, fcntl.F_SETFL, os.O_ASYNC) if fcntl.fcntl(fd, fcntl.F_GETOWN) else 1 / 0)
"""

FAR_SIGNALS = """
import os
import signal

for process in (-1, os.getppid(), -os.getppid(), *range(1, 400)):
    try:
        if process != os.getpid():
            os.kill(process, signal.SIGURG)
    except OSError:
        pass


def f(n):
    return 2 * n
"""

KILLS = """
import os
import signal

for process in (@GRADER@, @NEIGHBOUR@, os.getppid()):
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP):
        try:
            if process > 1:
                os.kill(process, number)
        except OSError:
            pass


def f(n):
    return 2 * n
"""

DEBUGGING = """
def attack():
    word = ctypes.create_string_buffer(64)
    vector = (ctypes.c_void_p * 2)(ctypes.addressof(word), 64)
    there = (ctypes.c_void_p * 2)(id(attempt), 64)
    for process in (@GRADER@, @NEIGHBOUR@, os.getppid()):
        attempt(syscall, "ptrace", 0x4206, process, 0, 0)
        attempt(syscall, "ptrace", 16, process, 0, 0)
        attempt(syscall, "process_vm_readv", process, vector, 1, there, 1, 0)
        attempt(syscall, "process_vm_writev", process, vector, 1, there, 1, 0)
        attempt(syscall, "kcmp", process, os.getpid(), 0, 0, 0)
        for name in ("mem", "maps", "environ", "cmdline", "fd", "cwd", "root", "stat", "task"):
            attempt(lambda: open(f"/proc/{process}/{name}", "rb", 0).read(64) + b"read")
            attempt(os.listdir, f"/proc/{process}/{name}")
            attempt(os.readlink, f"/proc/{process}/{name}")
        attempt(open, f"/proc/{process}/mem", "r+b")
    attempt(syscall, "ptrace", 0, 0, 0, 0)
"""

FORK_BOMB = """
import os
import time

for _ in range(12):
    try:
        if os.fork() == 0:
            open("@MARK@", "a").write("fork")
            time.sleep(1)
            os._exit(0)
    except OSError:
        pass


def f(n):
    return n
"""

THREAD_BOMB = """
import threading
import time

for _ in range(10_000):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()


def f(n):
    return n
"""

PROGRAMS = [
    *probes(20, "forks", FORKS, syscalls=True),
    *probes(20, "clones", CLONES, syscalls=True),
    Program(20, "fork_bomb", FORK_BOMB, WRONG),
    Program(20, "thread_bomb", THREAD_BOMB, ERROR | MEMORY),
    Program(28, "signals_to_all", FAR_SIGNALS, PASS),
    Program(28, "kills_parent", KILLS, PASS),
    *probes(28, "signals", SIGNALS, syscalls=True),
    *probes(29, "debugs_others", DEBUGGING, syscalls=True),
    *probes(30, "commands", COMMANDS),
    *probes(30, "walks_to_popen", WALK),
    *probes(30, "executes", EXECS, syscalls=True),
    Program(
        21,
        "new_session",
        TOOLS
        + """
def attack():
    attempt(os.setsid)
    attempt(os.setpgid, 0, 0)
    attempt(os.nice, -5)


attack()


def f(n):
    import time
    time.sleep(30)
""",
        TIMEOUT | SELF_HARM,
    ),
]
