"""A checkpoint is a folder that is whole or not there: written aside, hashed, renamed; verified when read.

`NAME.ckpt/` holds `state.json` (everything but tensors), `tensors.safetensors`, in the sharded form `shards/…`, and
`manifest.json`, written last, with the size and SHA-256 of each. While it is written it is `.NAME.ckpt.tmp-<token>`
beside its place; a checkpoint that it replaces is `.NAME.ckpt.old-<token>` until the new one is in place. What a
killed writer leaves is found again by `usable` and cleared by `sweep`. Other files in the folder are not read.
"""

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import re
import secrets
import shutil
import stat
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from lit_posttrain.checkpoints.encoding import (
    join,
    parse,
    render,
    split,
    tensor_bytes,
    tensor_header,
    tensor_slots,
)
from lit_posttrain.errors import InputError

T = TypeVar("T")
SCHEMA = 1
SINGLE, SHARDED = "single", "sharded"
MANIFEST, STATE, TENSORS = "manifest.json", "state.json", "tensors.safetensors"
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?P<what>tmp|old)-(?P<token>[0-9a-f]{16})")
_PIECE = 2**22  # bytes hashed and written at a time
_SPARE = 2**20  # bytes left free for the manifest and the folder itself
_DAY_S = 86400
_writing: dict[Path, int] = {}  # our temporary folders and the locks that say that their writer lives


class Damaged(InputError):
    """A checkpoint is not what its writer wrote; says which file, and what is wrong with it."""


@dataclass(frozen=True)
class FileEntry:
    """What a file must be: its size in bytes and its SHA-256 (hexadecimal)."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint consists of.

    Args:
        kind: `single` or `sharded`.
        step: The trainer's global step.
        world: How many processes wrote it.
        files: Each file but the manifest, relative to the folder with `/`.
    """

    kind: str
    step: int
    world: int
    files: Mapping[str, FileEntry]


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint in the single form; `path` is the old state or the new one at every instant.

    A checkpoint at `path` is replaced; where anything else stands, nothing is written. Errors leave nothing behind.

    Raises:
        TypeError: if the content has anything that `encoding.split` does not take.
        InputError: if something that is no checkpoint stands at `path`.
        OSError: if the disk is full or fails.
    """
    path = Path(path)
    state, tensors = split(content)
    text = render(state)
    step = content.get("global_step", 0)
    if type(step) is not int:
        raise TypeError(f"content['global_step'] must be an int, got {step!r}")
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    world = torch.distributed.get_world_size() if distributed else 1
    temp = begin(path, len(text) + sum(tensor.nbytes for tensor in tensors.values()))
    try:
        files = {STATE: _put(temp / STATE, [text]), TENSORS: write_tensors(temp / TENSORS, tensors)}
        publish(temp, path, Manifest(SINGLE, step, world, files))
    except BaseException:
        abandon(temp)
        raise


def read(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The content of a checkpoint, its tensors put on `device`; nothing is returned before its hash is right.

    The bytes that are hashed are those that are decoded. Shards are put together on the CPU, and verified before.

    Raises:
        Damaged: if anything differs from what was written.
        InputError: if there is no checkpoint at `path`, or none that this version reads.
    """
    path = Path(path)
    if manifest_of(path).kind == SINGLE:
        return read_state(path, device)
    verify(path)
    from lit_posttrain.checkpoints import sharded

    return sharded.insert(read_state(path, device), _on(device, sharded.assemble(path)))


def read_state(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """As `read`, but of the sharded form only what is not in its shards, which are not looked at.

    Raises:
        Damaged: if what is read differs from what was written.
    """
    path = Path(path)
    files = manifest_of(path).files
    text = _read_bytes(path / STATE, files[STATE])
    tensors = _on(device, read_tensors(path / TENSORS, files[TENSORS]))
    with _decoding(path / STATE):
        content = join(parse(text), tensors)
        if not isinstance(content, dict):
            raise ValueError("its content has another form")
        return content


def _on(device: torch.device | str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on a device; those that are one stay one."""
    moved = {id(tensor): tensor.to(device) for tensor in tensors.values()}
    return {name: moved[id(tensor)] for name, tensor in tensors.items()}


def verify(path: Path) -> Manifest:
    """Reads all files of a checkpoint and compares them with its manifest.

    Raises:
        Damaged: saying which file is not as it was written.
        InputError: if there is no checkpoint at `path`, or none that this version reads.
    """
    path = Path(path)
    manifest = manifest_of(path)
    for name, entry in manifest.files.items():
        with _decoding(path / name):
            _check_size(path / name, entry)
            if _describe(path / name) != entry:
                raise ValueError("its hash is not what it was when it was written")
    return manifest


def manifest_of(path: Path) -> Manifest:
    """The manifest of a checkpoint, itself verified; the files are not looked at.

    Raises:
        Damaged: if it is missing or not as it was written.
        InputError: if there is no checkpoint at `path`, or a newer version of this program wrote it.
    """
    path = Path(path)
    if not os.path.lexists(path):
        raise InputError(f"there is no checkpoint {path}; give one that there is, or the folder's last.ckpt")
    if path.is_file():
        raise InputError(
            f"{path} is a file; a checkpoint of ours is a folder. Files that other programs or older versions pickled "
            "can run anything when they are read, so they never are: export the weights with the version that wrote "
            "the file and start from that folder (network.path)"
        )
    file = path / MANIFEST
    with _decoding(file):
        raw = file.read_bytes()
        content = parse(raw)
        if not isinstance(content, dict) or raw != _sealed(content | {"sha256": ""}):
            raise ValueError("is not as it was written")
    schema = content.get("schema")
    if type(schema) is int and schema > SCHEMA:
        raise InputError(
            f"{path} was written by a newer lit-posttrain (form {schema}; this one reads {SCHEMA}); install that one"
        )
    with _decoding(file):
        return _manifest(content)


def _manifest(content: dict[str, Any]) -> Manifest:
    if content.keys() != {"sha256", "schema", "kind", "step", "world", "files"}:
        raise ValueError("has other entries than it should have")
    kind, step, world, files = (content[key] for key in ("kind", "step", "world", "files"))
    numbers = {type(number) for number in (content["schema"], step, world)} == {int}
    if not numbers or content["schema"] != SCHEMA or kind not in (SINGLE, SHARDED):
        raise ValueError("has a schema, kind, step or world that cannot be")
    if not isinstance(files, dict) or not {STATE, TENSORS} <= files.keys():
        raise ValueError(f"does not describe {STATE} and {TENSORS}")
    entries = {name: _file_entry(name, entry) for name, entry in files.items()}
    return Manifest(kind, step, world, entries)


def _file_entry(name: str, entry: Any) -> FileEntry:
    if not isinstance(entry, dict) or entry.keys() != {"size", "sha256"}:
        raise ValueError(f"describes {name!r} in another form")
    if type(entry["size"]) is not int or not isinstance(entry["sha256"], str) or not _inside(name):
        raise ValueError(f"describes {name!r} in a way that cannot be")
    return FileEntry(**entry)


def _inside(name: str) -> bool:
    return all(part not in ("", ".", "..") and "\0" not in part for part in name.split("/"))


def _sealed(content: dict[str, Any]) -> bytes:
    """The manifest's bytes, with the hash of what they are without it."""
    return render(content | {"sha256": hashlib.sha256(render(content)).hexdigest()})


def _manifest_bytes(manifest: Manifest) -> bytes:
    files = {name: asdict(entry) for name, entry in manifest.files.items()}
    numbers = {"kind": manifest.kind, "step": manifest.step, "world": manifest.world}
    content = {"sha256": "", "schema": SCHEMA, **numbers, "files": files}
    _manifest(content)  # never write what will be refused
    return _sealed(content)


def usable(path: Path) -> Path:
    """The checkpoint that `path` (or the link there) names if it verifies, else the newest before it that does.

    Looks at what a killed writer left of the same name, then at the checkpoints beside it whose step is not higher,
    as its manifest or name (`step-50`) says; where neither does, at all of them. Warns, naming both. Where nothing
    ever stood at `path`, there is nothing to replace and nothing is searched.

    Raises:
        Damaged: if none verifies.
        InputError: if `path` is no checkpoint, or none that this version reads.
    """
    return first_sound(path, verify)[0]


def first_sound(path: Path, attempt: Callable[[Path], T]) -> tuple[Path, T]:
    """As `usable`, and what `attempt` (`verify`, `read` …) gives, so that a checkpoint is read only once."""
    path = Path(path)
    asked = path.resolve()
    lost = not os.path.lexists(asked) and (path.is_symlink() or any(_leftovers(asked)))
    try:
        if lost:
            raise Damaged(f"{asked} is not there")
        return asked, attempt(asked)
    except Damaged as error:
        problem = error
    for other in _others(asked):
        with contextlib.suppress(InputError):
            found = attempt(other)
            warnings.warn(f"{problem}; {other} is used in its place", UserWarning, stacklevel=3)
            return other, found
    raise Damaged(f"{problem}; no checkpoint beside it, up to its step, can be read either") from problem


def _others(asked: Path) -> Iterator[Path]:
    """What may stand in for a checkpoint, best first."""
    yield from _leftovers(asked)
    if not asked.parent.is_dir():
        return
    beside = {other: _step_of(other) for other in asked.parent.iterdir() if _may_be_checkpoint(other, asked)}
    limit = _step_of(asked)
    steps = {other: step for other, step in beside.items() if step is not None}
    for other in sorted(steps, key=lambda other: (steps[other], other.name), reverse=True):
        if limit is None or steps[other] <= limit:
            yield other


def _may_be_checkpoint(other: Path, asked: Path) -> bool:
    hidden = other.name.startswith(".")
    return other != asked and not hidden and not other.is_symlink() and (other / MANIFEST).is_file()


def _step_of(path: Path) -> int | None:
    with contextlib.suppress(InputError):
        return manifest_of(path).step
    named = re.search(r"step[-_=]?(\d+)", path.name)
    return int(named.group(1)) if named else None


def _leftovers(path: Path) -> list[Path]:
    """What a writer that was killed while it replaced `path` left: the new checkpoint, then the old one."""
    if not path.parent.is_dir():
        return []
    found = [(other, _LEFTOVER.fullmatch(other.name)) for other in path.parent.iterdir()]
    same = [(other, match["what"]) for other, match in found if match and match["name"] == path.name]
    if "old" not in (what for _, what in same):
        return []
    return [other for other, _ in sorted(same, key=lambda pair: pair[1], reverse=True)]


def begin(path: Path, size: int = 0) -> Path:
    """Makes the temporary folder for a checkpoint at `path`; end with `publish` or `abandon`.

    Args:
        path: Where the checkpoint will be; folders above it are made.
        size: How many bytes will be written in all.

    Raises:
        OSError: if the disk has not that much free (ENOSPC), or fails.
        InputError: if something that is no checkpoint stands at `path`.
    """
    path = Path(path)
    _refuse_strange(path)
    _make(path.parent)
    _check_room(path, size)
    while True:
        temp = path.parent / f".{path.name}.tmp-{secrets.token_hex(8)}"
        os.mkdir(temp)
        try:
            _writing[temp] = os.open(temp, os.O_RDONLY)
        except OSError:
            abandon(temp)
            raise
        _lock(_writing[temp], fcntl.LOCK_EX)
        if temp.is_dir():
            return temp
        _release(temp)  # another process swept it before it was locked


def _check_room(path: Path, size: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if size and free < size + _SPARE:
        needed = f"{(size + _SPARE) / 1e6:,.1f} MB needed, {free / 1e6:,.1f} MB free"
        raise OSError(errno.ENOSPC, f"no room for the checkpoint: {needed}", str(path))


def _refuse_strange(path: Path) -> None:
    if not os.path.lexists(path) or path.is_symlink():
        return
    ours = [name for name in (MANIFEST, STATE, TENSORS) if (path / name).is_file()]
    if not path.is_dir() or (len(ours) < 2 and any(path.iterdir())):
        raise InputError(f"{path} exists and is no checkpoint of ours; remove it or give another name")


def _make(folder: Path) -> None:
    if not folder.is_dir():
        _make(folder.parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)
        _sync(folder.parent)


def seal(file: Path) -> FileEntry:
    """Makes sure that a file of the temporary folder is on the disk, and hashes it as it is there."""
    _sync(file)
    return _describe(file)


def _describe(file: Path) -> FileEntry:
    with open(file, "rb", buffering=0) as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        return FileEntry(opened.tell(), digest)


def publish(temp: Path, path: Path, manifest: Manifest) -> None:
    """Writes the manifest and puts the folder in place; once it returns, a loss of power does not undo it.

    Only the process that called `begin` may do this, after all have sealed their files.

    Raises:
        Damaged: if a file of the manifest is not there with its size.
        OSError: if the disk fails; what stood at `path` stands there again, and `temp` is there still.
    """
    path = Path(path)
    _refuse_strange(path)
    for name, entry in manifest.files.items():
        if not (temp / name).is_file() or (temp / name).stat().st_size != entry.size:
            raise Damaged(
                f"{temp / name} is not there with its {entry.size} bytes; write it before it is sealed"
            )
    _put(temp / MANIFEST, [_manifest_bytes(manifest)])
    for folder in (*(child for child in temp.rglob("*") if child.is_dir()), temp):
        _sync(folder)
    _put_in_place(temp, path)


def _put_in_place(temp: Path, path: Path) -> None:
    aside, lock = _aside(temp), _writing[temp]
    try:
        if os.path.lexists(path):
            os.rename(path, aside)
            _sync(path.parent)
        os.rename(temp, path)
        _sync(path.parent)
    except BaseException:
        _put_back(temp, path, aside, lock)
        raise
    _release(temp)
    _delete(aside)


def _aside(temp: Path) -> Path:
    name, _, token = temp.name.rpartition(".tmp-")
    return temp.with_name(f"{name}.old-{token}")


def _put_back(temp: Path, path: Path, aside: Path, lock: int) -> None:
    with contextlib.suppress(OSError):
        if os.path.samestat(os.stat(path), os.fstat(lock)):  # ours, not another writer's
            os.rename(path, temp)
    with contextlib.suppress(OSError):
        os.rename(aside, path)


def abandon(temp: Path) -> None:
    """Removes a temporary folder whose checkpoint will not be."""
    _delete(temp)
    _release(temp)


def remove(path: Path) -> None:
    """Removes a checkpoint, or just the link at `path`; if killed in between, it leaves no part that looks whole.

    Raises:
        InputError: if something else stands there.
    """
    path = Path(path)
    _refuse_strange(path)
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        doomed = path.with_name(f".{path.name}.tmp-{secrets.token_hex(8)}")
        os.rename(path, doomed)
        _delete(doomed)


def sweep(folder: Path) -> None:
    """Clears what killed writers left in a folder; a checkpoint that they had moved aside goes back to its place.

    What a writer on this machine still works on is left alone. Where the filesystem has no locks, that is anything
    younger than a day.
    """
    folder = Path(folder)
    found = [_LEFTOVER.fullmatch(child.name) for child in folder.iterdir()] if folder.is_dir() else []
    for name, token in {(match["name"], match["token"]) for match in found if match}:
        temp = folder / f".{name}.tmp-{token}"
        with _claimed(temp if temp.is_dir() else folder / name) as dead:  # the lock moves with the folder
            if dead:
                _clear(temp, folder / name)


def _clear(temp: Path, path: Path) -> None:
    """Ends what the dead writer of `temp` began."""
    aside = _aside(temp)
    if os.path.lexists(aside) and not os.path.lexists(path):
        whole = False
        with contextlib.suppress(InputError):
            whole = temp.is_dir() and verify(temp) is not None
        os.rename(temp if whole else aside, path)
        _sync(path.parent)
    _delete(temp)
    _delete(aside)


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Whether no process works on a folder of `begin`; while the context lasts, none can begin to."""
    if not folder.is_dir():
        yield True
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        old = time.time() - os.fstat(descriptor).st_mtime > _DAY_S
        yield _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, otherwise=old)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, how: int, otherwise: bool = True) -> bool:
    """Whether the lock, which ends with its process, could be had; `otherwise` where the filesystem has none."""
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return False
    except OSError:
        return otherwise
    return True


def _release(temp: Path) -> None:
    lock = _writing.pop(temp, None)
    if lock is not None:
        with contextlib.suppress(OSError):  # the checkpoint does not depend on it
            os.close(lock)


def _delete(path: Path) -> None:
    """Removes a folder or link if it is there, the manifest first; what cannot be removed is left for `sweep`."""
    with contextlib.suppress(OSError):
        if path.is_symlink():
            path.unlink()
        elif path.exists():
            (path / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    """Makes a file's bytes, or a folder's names, survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> FileEntry:
    """Writes a safetensors file to the disk, one tensor after the other; none is copied but from a device."""
    header, order = tensor_header(dict(tensors))
    return _put(file, chain([header], (tensor_bytes(tensors[name]) for name in order)))


def _put(file: Path, parts: Iterable[bytes | memoryview]) -> FileEntry:
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


def _read_bytes(file: Path, entry: FileEntry) -> bytes:
    with _hashed(file, entry) as opened:
        return opened.take(entry.size)


@contextlib.contextmanager
def _decoding(file: Path) -> Iterator[None]:
    """Says of a file what is wrong with it."""
    try:
        yield
    except OSError as error:
        raise Damaged(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise Damaged(f"{file} is damaged: {error}") from error


@contextlib.contextmanager
def _hashed(file: Path, entry: FileEntry) -> Iterator["_Reader"]:
    """A file read from its start to its end; at the end of the context these were the right bytes, or it raises."""
    with _decoding(file):
        _check_size(file, entry)
        with open(file, "rb", buffering=0) as opened:
            reader = _Reader(opened)
            yield reader
            if reader.digest.hexdigest() != entry.sha256 or opened.read(1):
                raise ValueError("its hash is not what it was when it was written")


def _check_size(file: Path, entry: FileEntry) -> None:
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
