"""Folders of flat arrays on disk: written once, and never believed without a check.

A folder is named by what it was made from. It holds arrays and a manifest with the size and hash of each; it is
written beside its place and renamed when it is whole. What does not match its manifest is made anew. Nothing in it
is code: files are read as numbers and as JSON.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_posttrain import interruption
from lit_posttrain.errors import InputError

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
LOOK_S = 0.2


class DamagedCache(Exception):
    """What is in a cache is not what was written; the message says how."""


@dataclass(frozen=True)
class SealedFolders:
    """Where sealed folders are kept.

    Args:
        folder: Of all of them.
        setting: What messages call the setting of `folder`.
        what: What messages call the content.
    """

    folder: Path
    setting: str = "preparation.cache_dir"
    what: str = "tokens"

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Lets one process at a time make a folder; the others wait and then find it.

        Raises:
            InputError: if the place cannot be used.
        """
        with self.usable():
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder / f"{name}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            while not _locked(handle):
                interruption.safe_point()
                time.sleep(LOOK_S)
            yield
        finally:
            os.close(handle)

    @contextmanager
    def draft(self, name: str) -> Iterator[Path]:
        """A folder to write into; gone after the block, unless `put` was called. Call it under `lock`."""
        with self.usable():
            for left in self.folder.glob(f".{name}-*"):  # of a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            draft = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=self.folder))
        try:
            with self.usable():
                yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def put(self, draft: Path, name: str, content: Mapping[str, Any]) -> None:
        """Seals a written draft with what its manifest says, and gives it its name, in place of any other."""
        place = self.folder / name
        _seal(draft, content)
        if place.is_symlink() or place.is_file():
            place.unlink()
        shutil.rmtree(place, ignore_errors=True)
        draft.replace(place)

    @contextmanager
    def usable(self) -> Iterator[None]:
        """
        Raises:
            InputError: in place of an error of the file system.
        """
        try:
            yield
        except OSError as error:
            raise InputError(
                f"{self.what} cannot be kept in {self.folder} ({error.strerror or error}); set "
                f"{self.setting} to a folder that can be written and has room"
            ) from error


def opened(place: Path) -> dict[str, Any]:
    """The manifest of a folder whose files are as they were written.

    Raises:
        DamagedCache: if one is not. A broken manifest raises what reading it raises: OSError, ValueError, KeyError.
    """
    content = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
    checksum = content.pop("checksum")
    require(checksum == _checksum(content), "its manifest was changed")
    for name, entry in content["files"].items():
        file = place / f"{name}.bin"
        require(file.is_file() and not file.is_symlink(), f"{file.name} is missing")
        require(file.stat().st_size == entry["bytes"], f"{file.name} has another size")
        require(_hash(file) == entry["digest"], f"{file.name} has another content")
    return content


def require(held: bool, otherwise: str) -> None:
    """
    Raises:
        DamagedCache: unless it held.
    """
    if not held:
        raise DamagedCache(otherwise)


def cache_folder(folder: str | None, part: str) -> Path:
    """`folder`, or the one of this part in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(folder if folder is not None else f"{home}/lit-posttrain/{part}").expanduser()


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _seal(draft: Path, content: Mapping[str, Any]) -> None:
    files = {file.stem: _entry(file) for file in sorted(draft.glob("*.bin"))}
    whole = {**content, "files": files}
    with (draft / MANIFEST).open("w", encoding="utf-8") as stream:
        json.dump({**whole, "checksum": _checksum(whole)}, stream)
        stream.flush()
        os.fsync(stream.fileno())


def _entry(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
    return {"bytes": file.stat().st_size, "digest": _hash(file)}


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()
