"""A checkpoint is a folder that is whole or not there: written aside, hashed, renamed; verified when read.

`NAME.ckpt/` holds `state.json` (everything but tensors), `tensors.safetensors`, in the sharded form `shards/…`, and
`manifest.json`, written last, with the size and SHA-256 of each. While it is written it is `.NAME.ckpt.tmp-<token>`
beside its place; a checkpoint that it replaces is `.NAME.ckpt.old-<token>` until the new one is in place. What a
killed writer leaves is found again by `usable` and cleared by `sweep`. Other files in the folder are not read.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_posttrain.checkpoints.encoding import (
    join,
    parse,
    render,
    split,
)
from lit_posttrain.checkpoints.hashed_files import (
    check_size,
    describe,
    put,
    read_bytes,
    read_tensors,
    sync,
    write_tensors,
)
from lit_posttrain.checkpoints.manifest import (
    MANIFEST,
    SINGLE,
    STATE,
    TENSORS,
    Damaged,
    Manifest,
    decoding,
    manifest_bytes,
    manifest_of,
)
from lit_posttrain.errors import InputError

_SPARE = 2**20  # bytes left free for the manifest and the folder itself
_writing: dict[Path, int] = {}  # our temporary folders and the locks that say that their writer lives


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
        files = {STATE: put(temp / STATE, [text]), TENSORS: write_tensors(temp / TENSORS, tensors)}
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
    text = read_bytes(path / STATE, files[STATE])
    tensors = _on(device, read_tensors(path / TENSORS, files[TENSORS]))
    with decoding(path / STATE):
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
        with decoding(path / name):
            check_size(path / name, entry)
            if describe(path / name) != entry:
                raise ValueError("its hash is not what it was when it was written")
    return manifest


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
        lock(_writing[temp], fcntl.LOCK_EX)
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
        sync(folder.parent)


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
    put(temp / MANIFEST, [manifest_bytes(manifest)])
    for folder in (*(child for child in temp.rglob("*") if child.is_dir()), temp):
        sync(folder)
    _put_in_place(temp, path)


def _put_in_place(temp: Path, path: Path) -> None:
    aside, lock = place_aside(temp), _writing[temp]
    try:
        if os.path.lexists(path):
            os.rename(path, aside)
            sync(path.parent)
        os.rename(temp, path)
        sync(path.parent)
    except BaseException:
        _put_back(temp, path, aside, lock)
        raise
    _release(temp)
    delete(aside)


def place_aside(temp: Path) -> Path:
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
    delete(temp)
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
        delete(doomed)


def lock(descriptor: int, how: int, otherwise: bool = True) -> bool:
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


def delete(path: Path) -> None:
    """Removes a folder or link if it is there, the manifest first; what cannot be removed is left for `sweep`."""
    with contextlib.suppress(OSError):
        if path.is_symlink():
            path.unlink()
        elif path.exists():
            (path / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)
