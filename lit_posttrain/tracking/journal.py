"""The local journal of a run: all that is tracked, one JSON object a line, appended and never changed.

The training process only appends here, which takes microseconds and cannot be held up by a server;
`upload.py`, another process, carries the lines to MLflow. A record is a dictionary with a `kind`:

| kind       | other fields |
|------------|--------------|
| `start`    | `run_uid`, `experiment`, `run_name`, `tracking_uri`, `tags`, `start_time` (ms), `rewind` |
| `params`   | `values` (name to string) |
| `metrics`  | `step`, `timestamp_ms`, `values` (name to number; NaN, Infinity as such) |
| `tags`     | `values` (name to string) |
| `artifact` | `path` (from the run directory), `artifact_path` (folder in MLflow, "" for the top) |
| `table`    | `artifact_file`, `columns` (name to list of cells) |
| `dataset`  | `name`, `source`, `digest`, `context`, `profile` |
| `end`      | `status` (`FINISHED`, `FAILED`, `KILLED`), `timestamp_ms` |
"""

import contextlib
import fcntl
import json
import os
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_posttrain.errors import InputError

FILE = "journal.jsonl"
LOCK = "writer.lock"

Record = dict[str, Any]


class Journal:
    """Appends records to `journal.jsonl` in a run directory.

    Each record is one unbuffered write(2), so a killed process loses nothing it appended; a background
    thread calls fsync, so a machine that loses power loses about `sync_s` seconds. If the disk refuses a
    line (full, say) it is kept in memory, warned of once, and written before the next one.

    Args:
        directory: The run directory; it is made if need be. One process at a time may write there.
        sync_s: Least seconds between two fsyncs.

    Raises:
        InputError: if another process is writing this journal.
    """

    def __init__(self, directory: Path | str, *, sync_s: float = 1.0) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock_file = _lock_for_writing(self.directory)
        self._file = os.open(self.directory / FILE, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self._unwritten = bytearray(_seal(self._file))
        self._warned = False
        self._mutex = threading.Lock()
        self._dirty, self._closing = threading.Event(), threading.Event()
        self._syncer = threading.Thread(target=self._sync, args=(sync_s,), name="journal-fsync", daemon=True)
        self._syncer.start()

    def append(self, record: Record) -> None:
        """Writes one record; it survives the death of this process as soon as this returns."""
        line = json.dumps(record, separators=(",", ":"), default=str).encode() + b"\n"
        with self._mutex:
            self._unwritten += line
            self._write()
        self._dirty.set()

    def close(self) -> None:
        """Writes and syncs what is left and lets go of the directory; a second call does nothing."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._dirty.set()
        self._syncer.join()
        with self._mutex:
            self._write()
            os.close(self._file)
        self._lock_file.close()

    def _write(self) -> None:
        try:
            while self._unwritten:
                del self._unwritten[: os.write(self._file, self._unwritten)]
        except OSError as error:
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"the journal in {self.directory} cannot be written ({error}); records are kept in "
                    "memory and written when it can. Free some space; training goes on.",
                    stacklevel=4,
                )

    def _sync(self, sync_s: float) -> None:
        while not self._closing.is_set():
            self._dirty.wait()
            self._dirty.clear()
            try:
                os.fsync(self._file)
            except OSError:
                self._dirty.set()  # tried again after the pause; a failing disk is reported by `_write`
            self._closing.wait(sync_s)
        with self._mutex:
            self._write()
        with contextlib.suppress(OSError):
            os.fsync(self._file)


@dataclass(frozen=True)
class Entry:
    """A line of the journal: its record (None where a kill tore the line) and the byte offset of its end."""

    record: Record | None
    end: int


def read(directory: Path | str, offset: int = 0) -> Iterator[Entry]:
    """The whole lines of a journal from byte `offset` on; a last one without newline is left out."""
    path = Path(directory) / FILE
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield Entry(_parse(line), offset)


def is_being_written(directory: Path | str) -> bool:
    """Whether another process holds the journal open. Ask only from a process that does not write it."""
    path = Path(directory) / LOCK
    if not path.exists():
        return False
    with path.open("r+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _parse(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "kind" in record else None


def _lock_for_writing(directory: Path) -> Any:
    file = (directory / LOCK).open("w")
    try:
        # A POSIX lock ends with this process and is not inherited: orphaned workers do not hold it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise InputError(
            f"another process is writing the run in {directory}; wait for its end or choose another run_name"
        ) from error
    return file


def _seal(file: int) -> bytes:
    """The newline that a line torn by a kill lacks, so that the next record does not continue it."""
    size = os.fstat(file).st_size
    return b"\n" if size and os.pread(file, 1, size - 1) != b"\n" else b""
