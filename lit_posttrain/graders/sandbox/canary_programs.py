"""The canary attacks as programs: each prints `closed` where it was held back, `open` where it got through."""

from lit_posttrain.graders.sandbox.interface import Level

CLOSED = b"closed\n"

ATTEMPT = """
import os
def attempt(attack):
    try:
        attack()
    except (OSError, ValueError, MemoryError):
        print("closed")
    else:
        print("open")
"""
LIBC = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def checked(result):
    if result < 0 and ctypes.get_errno() != 14:
        raise OSError(ctypes.get_errno(), "refused")
"""
"""EFAULT (14) comes from calls that were let through."""

LIMITED = {
    "memory": "attempt(lambda: bytearray(300 << 20))",
    "raised limits": """
import resource
def attack():
    resource.setrlimit(resource.RLIMIT_CPU, (100, 100))
attempt(attack)
""",
}
CONFINED = {
    "file": "attempt(lambda: open({secret!r}).read())",
    "folder": "attempt(lambda: os.listdir({folder!r}))",
    "environment": "attempt(lambda: open('/proc/{victim}/environ').read())",
    "write": "attempt(lambda: open({marker!r}, 'w').write('was here'))",
    "tcp": "import socket\nattempt(lambda: socket.create_connection(('127.0.0.1', {port}), 1))",
    "unix socket": "import socket\nattempt(lambda: socket.socket(socket.AF_UNIX).connect('\\0' + {abstract!r}))",
    "fork": "attempt(lambda: os.fork() or os._exit(0))",
    "exec": "attempt(lambda: os.execv({interpreter!r}, ['python', '-I', '-S', '-c', 'print(\"open\")']))",
    "kill": "attempt(lambda: os.kill({victim}, 9))",
    "signals": """
def reaches(pid):
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
near = {{os.getppid(), *range(max(os.getpid() - 30, 1), os.getpid() + 30)}} - {{os.getpid()}}
print("open" if any(map(reaches, near)) else "closed")
""",
    "memory of others": LIBC
    + """
size = ctypes.c_ulong(8)
class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
mine, its = Piece(ctypes.addressof(size), 8), Piece(4096, 8)
attempt(lambda: checked(libc.process_vm_readv({victim}, ctypes.byref(mine), size, ctypes.byref(its), size, size)))
""",
    "trace": LIBC + "attempt(lambda: checked(libc.ptrace(0x4206, {victim}, None, None)))",
    "namespace": LIBC + "attempt(lambda: checked(libc.unshare(0x10000000)))",
    "mount": LIBC + "attempt(lambda: checked(libc.mount(b'none', b'/', b'tmpfs', 0, None)))",
}
ISOLATED = {
    "host files": "print('open' if os.path.lexists({secret!r}) else 'closed')",
    "host processes": "print('closed' if os.getppid() == 1 else 'open')",
    "host name": "print('closed' if os.uname().nodename == 'box' else 'open')",
}
ENDLESS = """
import os, signal, threading, time
for number in range(1, 32):
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_IGN)
def stay():
    while True:
        time.sleep(1)
threading.Thread(target=stay).start()
try:
    if not os.fork():
        os.setsid()
        time.sleep(5)
except OSError:
    pass
print("closed", flush=True)
stay()
"""


def attacks(level: Level) -> dict[str, str]:
    """The attacks that a level must withstand, by name; `canaries.Bait` fills in what they are after."""
    return (
        LIMITED
        | (CONFINED if level >= Level.CONFINED else {})
        | (ISOLATED if level >= Level.ISOLATED else {})
    )
