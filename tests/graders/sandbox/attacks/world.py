"""What is planted around the box: secrets to find, places to write to, listeners to reach, a neighbour to disturb."""

import contextlib
import ctypes
import os
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from attacks.tasks import INPUTS

SECRET_NAME = "PLANTED_API_KEY"
IPC_CREAT, IPC_RMID = 0o1000, 0

NEIGHBOUR = """
import pathlib, signal, sys
marker = pathlib.Path(sys.argv[1])
for number in (signal.SIGURG, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, _: marker.write_text(str(number)))
print("ready", flush=True)
sys.stdin.read()
"""


@dataclass
class World:
    """A folder open to every user, a few sockets, a segment of shared memory and a process.

    Args:
        secret: What no program may see; it is also in the environment that this process was started with.
        interpreter: A Python that this user may run.
    """

    secret: str
    interpreter: str = sys.executable
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="attacks-")))
    heard: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._undo = contextlib.ExitStack()
        self._undo.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.markers.mkdir()
        self.folder.chmod(0o777)
        self.markers.chmod(0o777)
        self._plant_files()
        self._plant_listeners()
        self._plant_shared_memory()
        self._plant_neighbour()

    @property
    def markers(self) -> Path:
        """The folder in which whoever gets out leaves a file."""
        return self.folder / "markers"

    def names(self, program: str) -> dict[str, str]:
        """What stands for what in the text of the program of this name."""
        return {
            **self._places,
            "MARK": f"{self.markers}/{program}",
            "NAME": program,
            "FOLDER": str(self.folder),
            "REPOSITORY": str(Path(__file__).parents[4]),
            "SECRET_NAME": SECRET_NAME,
            "GRADER": str(os.getpid()),
            "GRADER_CMDLINE": f"/proc/{os.getpid()}/cmdline",
        }

    @property
    def neighbour(self) -> int:
        """The process id of the planted neighbour."""
        return self._neighbour.pid

    def text(self, program: str, source: str) -> str:
        """A program's text with all names filled in."""
        for name, value in self.names(program).items():
            source = source.replace(f"@{name}@", value)
        return source

    def damage(self) -> list[str]:
        """What the programs did outside of their boxes; empty if all of them held."""
        found = [f"file {path.name}" for path in sorted(self.markers.iterdir())]
        found += [f"listener heard {text!r}" for text in self.heard]
        for name, content in self._contents.items():
            path = self.folder / name
            if not path.is_file() or path.read_bytes() != content or path.stat().st_mode & stat.S_ISUID:
                found.append(f"{name} was changed")
        if self._neighbour.poll() is not None:
            found.append("the neighbour is gone")
        known = {"markers", "docker.sock", *self._contents, *(["device"] if os.getuid() == 0 else [])}
        found += [f"new {path.name}" for path in self.folder.iterdir() if path.name not in known]
        return found

    def close(self) -> None:
        """Takes everything away."""
        self._undo.close()

    def _plant_files(self) -> None:
        answers = " ".join(str(2 * n) for n in INPUTS)
        self._contents = {
            "secret.txt": self.secret.encode(),
            "tests.json": f"{answers} {self.secret}".encode(),
            "id_rsa": f"-----BEGIN PRIVATE KEY----- {self.secret}".encode(),
            "store.db": f"SQLite format 3\0{self.secret}".encode(),
            "planted.py": f"KEY = {self.secret!r}\n".encode(),
            "notes.txt": b"anyone may write here",
        }
        for name, content in self._contents.items():
            (self.folder / name).write_bytes(content)
            (self.folder / name).chmod(0o666)
        keys = ("SECRET_FILE", "TESTS_FILE", "KEY_FILE", "STORE_FILE", "MODULE_FILE", "WRITABLE_FILE")
        self._places = {key: str(self.folder / name) for key, name in zip(keys, self._contents, strict=True)}
        self._places["DEVICE_FILE"] = str(self.folder / "device")
        if os.getuid() == 0:  # a second /dev/zero: what a GPU's device file is to a program
            os.mknod(self.folder / "device", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
            (self.folder / "device").chmod(0o666)
        leak = os.open(self.folder / "secret.txt", os.O_RDWR)
        self._undo.callback(os.close, leak)
        for number in (17, 300, 1000):
            os.dup2(leak, number, inheritable=True)
            self._undo.callback(os.close, number)

    def _plant_listeners(self) -> None:
        abstract = f"planted-{secrets.token_hex(4)}"
        docker = f"{self.folder}/docker.sock"
        stream, datagram = socket.SOCK_STREAM, socket.SOCK_DGRAM
        tcp = self._listen(socket.AF_INET, stream, ("127.0.0.1", 0))
        udp = self._listen(socket.AF_INET, datagram, ("127.0.0.1", 0))
        self._listen(socket.AF_UNIX, stream, docker)
        os.chmod(docker, 0o666)
        self._listen(socket.AF_UNIX, stream, f"\0{abstract}")
        self._listen(socket.AF_UNIX, datagram, f"\0{abstract}-datagrams")
        self._places |= {"PORT": str(tcp.getsockname()[1]), "UDP_PORT": str(udp.getsockname()[1])}
        self._places |= {"DOCKER_SOCKET": docker, "ABSTRACT": abstract}
        self._places["ABSTRACT_DATAGRAMS"] = f"{abstract}-datagrams"

    def _listen(self, family: int, kind: int, address: object) -> socket.socket:
        listener = socket.socket(family, kind)
        listener.bind(address)
        if kind == socket.SOCK_STREAM:
            listener.listen()
        self._undo.callback(listener.close)
        threading.Thread(target=self._hear, args=(listener, kind), daemon=True).start()
        return listener

    def _hear(self, listener: socket.socket, kind: int) -> None:
        with contextlib.suppress(OSError):  # closed at the end
            while True:
                if kind == socket.SOCK_DGRAM:
                    self.heard.append(repr(listener.recv(1000)))
                    continue
                caller, _ = listener.accept()
                caller.settimeout(0.5)
                with caller, contextlib.suppress(TimeoutError):
                    self.heard.append("a connection")
                    self.heard.append(repr(caller.recv(1000)))

    def _plant_shared_memory(self) -> None:
        segment = Path("/dev/shm") / f"planted-{secrets.token_hex(4)}"
        segment.write_text(self.secret)
        segment.chmod(0o666)
        self._undo.callback(segment.unlink, missing_ok=True)
        libc = ctypes.CDLL(None, use_errno=True)
        key = secrets.randbits(24) + 1
        number = libc.shmget(key, 4096, IPC_CREAT | 0o666)
        self._undo.callback(libc.shmctl, number, IPC_RMID, None)
        self._places |= {"SEGMENT": segment.name, "SHM_KEY": str(key), "SHM_ID": str(number)}

    def _plant_neighbour(self) -> None:
        arguments = [self.interpreter, "-I", "-S", "-c", NEIGHBOUR, f"{self.markers}/neighbour_was_signalled"]
        self._neighbour = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._neighbour.stdout is not None
        self._neighbour.stdout.readline()
        self._places["NEIGHBOUR"] = str(self._neighbour.pid)
        self._undo.callback(self._end_neighbour)

    def _end_neighbour(self) -> None:
        self._neighbour.kill()
        self._neighbour.communicate()


@contextlib.contextmanager
def planted(secret: str, interpreter: str | None = None) -> Iterator[World]:
    """A world that is taken away at the end."""
    world = World(secret, interpreter or sys.executable)
    try:
        yield world
    finally:
        world.close()


def interpreter_for_all() -> str | None:
    """A Python that every user may run; None where there is none."""
    names = (os.path.realpath(sys._base_executable), shutil.which("python3", path="/usr/bin:/usr/local/bin"))
    for path in (Path(name) for name in names if name):
        if all(place.stat().st_mode & stat.S_IXOTH for place in (path, *path.parents)):
            return str(path)
    return None
