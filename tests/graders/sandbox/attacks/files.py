"""Rows 22 to 24: programs that look for secrets or write outside of their box."""

from attacks.program import probes

ENVIRONMENT = """
def attack():
    attempt(lambda: [os.environ[name] for name in ("@SECRET_NAME@",)])
    attempt(lambda: 1 / sum("SECRET" in text for text in os.environ.values()))
    libc = __import__("ctypes").CDLL(None)
    libc.getenv.restype = __import__("ctypes").c_char_p
    attempt(lambda: libc.getenv(b"@SECRET_NAME@").decode())
    attempt(lambda: open("/proc/self/environ", "rb").read())
    for process in (os.getppid(), @GRADER@, @NEIGHBOUR@, 1):
        attempt(lambda: 1 / len(open(f"/proc/{process}/environ", "rb").read()))
        attempt(lambda: open(f"/proc/{process}/cmdline", "rb").read() + b"!")
        attempt(lambda: os.readlink(f"/proc/{process}/cwd"))
    attempt(os.listdir, "/proc/self/task")
"""

READS = """
import glob
import mmap
import pathlib

PATHS = [
    "/etc/shadow", "/etc/passwd", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/etc/machine-id",
    "/proc/cpuinfo", "/proc/mounts", "/proc/net/tcp", "/proc/self/maps", "/proc/self/mem", "/proc/self/status",
    "/proc/version", "/proc/kallsyms", "/proc/1/environ", "/sys/class/net", "/sys/kernel", "/var/log",
    "@SECRET_FILE@", "@TESTS_FILE@", "@KEY_FILE@", "@STORE_FILE@", "@REPOSITORY@/pyproject.toml",
    "@REPOSITORY@/lit_posttrain/graders/code_tests.py", "@REPOSITORY@/.git/config",
]


def attack():
    for path in PATHS:
        attempt(lambda: open(path, "rb").read(100) + b"!")
        attempt(os.open, path, os.O_RDONLY)
        attempt(os.open, path, os.O_RDWR)
        attempt(os.listdir, path)
        attempt(lambda: pathlib.Path(path).read_text())
        attempt(lambda: mmap.mmap(os.open(path, 0), 1, prot=1)[:])
    for folder in ("/", "/etc", "/home", "/root", "/tmp", "/var", "/proc", "/dev", ".", "..", "@FOLDER@"):
        attempt(os.listdir, folder)
        attempt(lambda: 1 / len(glob.glob(folder + "/*")))
        attempt(lambda: next(os.scandir(folder)))
    attempt(lambda: open(os.path.expanduser("~/.ssh/id_rsa")).read())
    attempt(lambda: open("/dev/../@SECRET_FILE@").read())
    attempt(lambda: os.open("@KEY_FILE@", os.O_RDONLY | os.O_NOFOLLOW))
    attempt(lambda: __import__("runpy").run_path("@MODULE_FILE@"))
    attempt(lambda: __import__("importlib").machinery.SourceFileLoader("planted", "@MODULE_FILE@").load_module())
    attempt(lambda: __import__("ctypes").CDLL("@MODULE_FILE@"))
    attempt(lambda: __import__("linecache").getlines("@SECRET_FILE@")[0])
    attempt(lambda: __import__("io").open_code("@SECRET_FILE@").read())
    attempt(lambda: __import__("sqlite3").connect("@STORE_FILE@").execute("create table t (x)"))
"""

HANDLES = """
def attack():
    handle = ctypes.create_string_buffer(b"\\x80\\0\\0\\0" + bytes(132))
    mount = ctypes.c_int()
    attempt(syscall, "name_to_handle_at", -100, b"@SECRET_FILE@", handle, ctypes.byref(mount), 0)
    for fd in range(0, 64):
        attempt(syscall, "open_by_handle_at", fd, handle, 0)
        attempt(lambda: os.open("../../../../@SECRET_FILE@", os.O_RDONLY, dir_fd=fd))
        attempt(lambda: os.open("@SECRET_FILE@", os.O_RDONLY, dir_fd=fd))
        attempt(os.fchdir, fd)
    attempt(syscall, "open_tree", -100, b"/", 1)
    attempt(lambda: os.chroot("/tmp"))
    attempt(lambda: os.open("/", os.O_RDONLY | os.O_DIRECTORY))
"""

WRITES = """
import pathlib
import shutil
import tempfile

PLACES = ["@MARK@", "/tmp/@NAME@", "/var/tmp/@NAME@", "/dev/shm/@NAME@", "/run/@NAME@", "@NAME@", "/@NAME@"]


def attack():
    for path in PLACES:
        attempt(lambda: open(path, "w").close())
        attempt(lambda: open(path, "xb").close())
        attempt(os.mkdir, path + ".d")
        attempt(os.mkfifo, path + ".p")
        attempt(os.mknod, path + ".n")
        attempt(os.symlink, "/etc/passwd", path + ".s")
        attempt(os.link, "@SECRET_FILE@", path + ".l")
        attempt(os.open, os.path.dirname(path) or ".", os.O_TMPFILE | os.O_RDWR)
    for path in ("@SECRET_FILE@", "@TESTS_FILE@", "@STORE_FILE@", "@WRITABLE_FILE@"):
        attempt(lambda: open(path, "a").close())
        attempt(lambda: open(path, "r+").close())
        attempt(os.truncate, path, 3)
        attempt(os.unlink, path)
        attempt(os.rename, path, path + ".moved")
        attempt(os.replace, path, "@MARK@")
        attempt(os.chmod, path, 0o4777)
        attempt(os.chown, path, os.getuid(), os.getgid())
        attempt(os.utime, path, (1, 1))
        attempt(lambda: os.setxattr(path, "user.mark", b"1"))
    attempt(tempfile.mkdtemp)
    attempt(lambda: tempfile.TemporaryFile().write(b"x"))
    attempt(shutil.copy, "@SECRET_FILE@", "@MARK@")
    attempt(os.chmod, "@FOLDER@", 0o4777)
    attempt(os.rmdir, "@FOLDER@/markers")
    attempt(lambda: __import__("py_compile").compile("@MODULE_FILE@", doraise=True))
"""

SWAPS = """
import threading

PATH = "@MARK@.swap"


def attack():
    for target in ("/dev/null", "@SECRET_FILE@", "@WRITABLE_FILE@"):
        attempt(os.symlink, target, PATH)
        attempt(os.link, "/dev/null", PATH)
        attempt(os.rename, "/dev/null", PATH)
        attempt(lambda: open(PATH, "w").write("swapped"))
"""

PROGRAMS = [
    *probes(22, "environment", ENVIRONMENT),
    *probes(23, "reads", READS),
    *probes(23, "handles", HANDLES, syscalls=True),
    *probes(24, "writes", WRITES),
    *probes(24, "swaps", SWAPS),
]
