"""Files that are hashed while they are written and while they are read, and that survive a loss of power."""

import contextlib
import hashlib
import io
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from lit_posttrain.checkpoints.encoding import (
    tensor_bytes,
    tensor_header,
    tensor_slots,
)
from lit_posttrain.checkpoints.manifest import FileEntry, decoding

_PIECE = 2**22  # bytes hashed and written at a time


def seal(file: Path) -> FileEntry:
    """Makes sure that a file of the temporary folder is on the disk, and hashes it as it is there."""
    sync(file)
    return describe(file)


def describe(file: Path) -> FileEntry:
    with open(file, "rb", buffering=0) as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        return FileEntry(opened.tell(), digest)


def sync(path: Path) -> None:
    """Makes a file's bytes, or a folder's names, survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> FileEntry:
    """Writes a safetensors file to the disk, one tensor after the other; none is copied but from a device."""
    header, order = tensor_header(dict(tensors))
    return put(file, chain([header], (tensor_bytes(tensors[name]) for name in order)))


def put(file: Path, parts: Iterable[bytes | memoryview]) -> FileEntry:
    """Writes a new file, hashing what is written, until it is on the disk."""
    digest = hashlib.sha256()
    size = 0
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        for part in parts:
            view = memoryview(part)
            for begins in range(0, len(view), _PIECE):
                piece = view[begins : begins + _PIECE]
                digest.update(piece)
                size += len(piece)
                while piece:
                    piece = piece[os.write(descriptor, piece) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return FileEntry(size, digest.hexdigest())


def read_tensors(file: Path, entry: FileEntry) -> dict[str, Tensor]:
    """The tensors of a file of `write_tensors`, each with its own memory.

    Raises:
        Damaged: if the file is not what the entry says.
    """
    tensors: dict[str, Tensor] = {}
    with _hashed(file, entry) as opened:
        length = min(int.from_bytes(opened.take(8), "little"), entry.size)
        for slot in tensor_slots(opened.take(length), entry.size - 8 - length):
            tensors[slot.name] = tensor = torch.empty(slot.shape, dtype=slot.dtype)
            opened.fill(tensor_bytes(tensor))
    return tensors


def read_bytes(file: Path, entry: FileEntry) -> bytes:
    with _hashed(file, entry) as opened:
        return opened.take(entry.size)


@contextlib.contextmanager
def _hashed(file: Path, entry: FileEntry) -> Iterator["_Reader"]:
    """A file read from its start to its end; at the end of the context these were the right bytes, or it raises."""
    with decoding(file):
        check_size(file, entry)
        with open(file, "rb", buffering=0) as opened:
            reader = _Reader(opened)
            yield reader
            if reader.digest.hexdigest() != entry.sha256 or opened.read(1):
                raise ValueError("its hash is not what it was when it was written")


def check_size(file: Path, entry: FileEntry) -> None:
    found = os.stat(file)
    if not stat.S_ISREG(found.st_mode) or found.st_size != entry.size:
        raise ValueError(f"has {found.st_size} bytes, was written with {entry.size}")


class _Reader:
    """Gives the bytes of a file in order, and hashes them."""

    def __init__(self, opened: io.FileIO) -> None:
        self._opened = opened
        self.digest = hashlib.sha256()

    def take(self, size: int) -> bytes:
        """The next bytes."""
        data = bytearray(size)
        self.fill(memoryview(data))
        return bytes(data)

    def fill(self, view: memoryview) -> None:
        """Puts the next bytes into the view."""
        while view:
            count = self._opened.readinto(view[:_PIECE])
            if not count:
                raise ValueError("ends too early")
            self.digest.update(view[:count])
            view = view[count:]
