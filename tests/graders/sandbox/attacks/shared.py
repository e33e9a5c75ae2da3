"""Row 35: programs that use what processes share: devices, segments of memory, inherited descriptors."""

from attacks.program import ERROR, MEMORY, OUTPUT, TIMEOUT, WRONG, Program, probes

DEVICES = """
def attack():
    names = [f"nvidia{i}" for i in range(4)] + [
        "nvidiactl", "nvidia-uvm", "dri/card0", "kfd", "mem", "kmsg", "port", "kvm", "fuse", "vda", "sda", "loop0",
        "loop-control", "tty", "tty0", "console", "ptmx", "vsock", "net/tun", "mapper/control", "input/event0",
    ]
    for path in ["/dev/" + name for name in names] + ["@DEVICE_FILE@"]:
        attempt(os.open, path, os.O_RDONLY)
        attempt(os.open, path, os.O_RDWR)
        attempt(os.open, path, os.O_WRONLY)
    attempt(os.openpty)
    attempt(lambda: __import__("fcntl").ioctl(0, 0x5412, b"x"))
"""

SHARED_MEMORY = """
from multiprocessing import shared_memory


def attack():
    attempt(lambda: bytes(shared_memory.SharedMemory(name="@SEGMENT@", track=False).buf))
    attempt(lambda: bytes(shared_memory.SharedMemory(name="@SEGMENT@").buf))
    attempt(lambda: shared_memory.SharedMemory(name="@NAME@", create=True, size=4096))
    attempt(lambda: open("/dev/shm/@SEGMENT@", "rb").read())
    attempt(lambda: open("/dev/shm/@SEGMENT@", "r+b").write(b"x"))
    attempt(os.listdir, "/dev/shm")
    attempt(lambda: __import__("multiprocessing").Lock())
    for name, arguments in (("shmget", (@SHM_KEY@, 0, 0)), ("shmget", (0, 4096, 0o1600)),
                            ("msgget", (7, 0o1600)), ("semget", (7, 1, 0o1600)), ("shmat", (@SHM_ID@, 0, 0o10000))):
        attempt(syscall, name, *arguments)
"""

INHERITED = """
import stat


def attack():
    channel = set()
    for fd in range(3, 1200):
        try:
            kind = os.fstat(fd).st_mode
        except OSError:
            continue
        if stat.S_ISSOCK(kind) or stat.S_ISFIFO(kind):
            channel.add(fd)
        else:
            GOT.append((fd, oct(kind)))
        attempt(lambda: 1 / len(os.pread(fd, 100, 0)))
    if len(channel) > 2:
        GOT.append(("more than one channel", sorted(channel)))
    for fd in (0, 1, 2):
        if stat.S_ISREG(os.fstat(fd).st_mode) or os.isatty(fd):
            GOT.append((fd, "is a file or a terminal"))
"""

PASSED_FDS = """
import array
import socket


def f(n):
    for fd in range(0, 64):
        try:
            channel = socket.socket(fileno=os.dup(fd))
            channel.setblocking(False)
            channel.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
        except (OSError, ValueError):
            pass
    return n
"""

PROGRAMS = [
    *probes(35, "devices", DEVICES),
    *probes(35, "shared_memory", SHARED_MEMORY, syscalls=True),
    *probes(35, "inherited", INHERITED),
    Program(35, "passes_fds", "import os\n" + PASSED_FDS, WRONG | ERROR | TIMEOUT | OUTPUT | MEMORY),
]
