"""Tokenised tables on disk: written once, mapped into memory, and never believed without a check.

A table is a folder named by a fingerprint of everything that it was made from. It holds flat arrays and a manifest
with the size and hash of each; it is written beside its place and renamed when it is whole. What does not match its
manifest is made anew. Nothing in it is code: files are read as numbers and as JSON.
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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lit_posttrain import interruption
from lit_posttrain.data.report import DataReport
from lit_posttrain.data.token_table import TokenTable, joined_digest
from lit_posttrain.errors import InputError

log = logging.getLogger(__name__)

VERSION = 1
KINDS = {"ids": "<i4", "mask": "|b1", "starts": "<i8", "counts": "", "scale": "<f4"}
COUNTS = {False: "<i8", True: "<f8"}  # by whether there are scales
MANIFEST = "manifest.json"
LOOK_S = 0.2


class DamagedCache(Exception):
    """A cached table is not what was written; the message says how."""


@dataclass(frozen=True)
class TokenCache:
    """Where tokenised tables are kept.

    Args:
        folder: Of all tables.
    """

    folder: Path

    @classmethod
    def of(cls, folder: str | None) -> "TokenCache":
        """The one at `folder`, or the one in the user's cache folder."""
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return cls(Path(folder if folder is not None else f"{home}/lit-posttrain/tokens").expanduser())

    def find(self, fingerprint: str) -> tuple[TokenTable, DataReport] | None:
        """The table of a fingerprint, checked and mapped; None where there is none, or a damaged one."""
        place = self.folder / fingerprint
        if not place.is_dir():
            return None
        try:
            return _read(place, fingerprint)
        except (DamagedCache, OSError, ValueError, KeyError, TypeError) as error:
            log.warning("the cached tokens in %s cannot be used and are made anew: %s", place, error)
            return None

    @contextmanager
    def lock(self, fingerprint: str) -> Iterator[None]:
        """Lets one process at a time make a table; the others wait and then find it.

        Raises:
            InputError: if the folder cannot be used.
        """
        with self._usable():
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder / f"{fingerprint}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            while not _locked(handle):
                interruption.safe_point()
                time.sleep(LOOK_S)
            yield
        finally:
            os.close(handle)

    @contextmanager
    def draft(self, fingerprint: str) -> Iterator[Path]:
        """A folder to write a table into; gone after the block, unless `publish` was called. Call it under `lock`."""
        with self._usable():
            for left in self.folder.glob(f".{fingerprint}-*"):  # of a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            draft = Path(tempfile.mkdtemp(prefix=f".{fingerprint}-", dir=self.folder))
        try:
            with self._usable():
                yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def publish(self, draft: Path, fingerprint: str, report: DataReport) -> None:
        """Makes a written draft the table of a fingerprint, in place of any other."""
        place = self.folder / fingerprint
        _seal(draft, fingerprint, report)
        if place.is_symlink() or place.is_file():
            place.unlink()
        shutil.rmtree(place, ignore_errors=True)
        draft.replace(place)

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"tokens cannot be kept in {self.folder} ({error.strerror or error}); set "
                "preparation.cache_dir to a folder that can be written and has room"
            ) from error


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _seal(draft: Path, fingerprint: str, report: DataReport) -> None:
    files = {file.stem: _entry(file) for file in sorted(draft.glob("*.bin"))}
    content = {"version": VERSION, "fingerprint": fingerprint, "files": files, "report": asdict(report)}
    with (draft / MANIFEST).open("w", encoding="utf-8") as stream:
        json.dump({**content, "checksum": _checksum(content)}, stream)
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


def _read(place: Path, fingerprint: str) -> tuple[TokenTable, DataReport]:
    content = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
    checksum = content.pop("checksum")
    _require(checksum == _checksum(content), "its manifest was changed")
    _require(content["version"] == VERSION, f"it is of version {content['version']}, not {VERSION}")
    _require(content["fingerprint"] == fingerprint, "it was made from something else")
    files = content["files"]
    _require(set(files) in ({*KINDS}, {*KINDS} - {"scale"}), f"it holds {sorted(files)}")
    for name, entry in files.items():
        file = place / f"{name}.bin"
        _require(file.is_file() and not file.is_symlink(), f"{file.name} is missing")
        _require(file.stat().st_size == entry["bytes"], f"{file.name} has another size")
        _require(_hash(file) == entry["digest"], f"{file.name} has another content")
    return _mapped(place, files), DataReport(**content["report"])


def _mapped(place: Path, files: Mapping[str, Mapping[str, Any]]) -> TokenTable:
    kinds = KINDS | {"counts": COUNTS["scale" in files]}
    arrays = {name: np.memmap(place / f"{name}.bin", dtype=kinds[name], mode="r") for name in files}
    starts = np.array(arrays["starts"])
    tokens, rows = len(arrays["ids"]), len(starts) - 1
    whole = len(arrays["mask"]) == tokens and len(arrays["counts"]) == rows and starts[-1] == tokens
    _require(bool(whole and starts[0] == 0 and (np.diff(starts) > 0).all()), "its parts do not fit together")
    order = ("ids", "mask", "starts", *(["scale"] if "scale" in files else []))
    return TokenTable(
        arrays["ids"],
        arrays["mask"],
        starts,
        np.array(arrays["counts"]),
        arrays.get("scale"),
        joined_digest([files[name]["digest"] for name in order]),
    )


def _require(held: bool, otherwise: str) -> None:
    if not held:
        raise DamagedCache(otherwise)
