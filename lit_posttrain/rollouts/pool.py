"""Writing graded candidates to a pool on disk: part by part, so that what is there is whole."""

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_posttrain.candidates import Candidate, Origin, to_row
from lit_posttrain.errors import InputError
from lit_posttrain.pools import SCHEMA_VERSION, arrow_schema, pool_files, read_pool, rows_of

ENDINGS = (".parquet", ".jsonl")
ABANDONED_S = 3600.0
"""A temporary file that is older belongs to a writer that is gone."""
DONE_COLUMNS = ("source", "uid", "candidate", "samples", "policy", "strategy", "sampling")


class PoolWriter:
    """Appends candidates to a pool, which may be there already.

    A pool that ends in `.parquet` is a folder with a part for each `write`, which is there as a whole or not at
    all; readers of Parquet take the folder as one table. One that ends in `.jsonl` is a file with the same
    columns, to be looked at. One writer at a time.

    Args:
        path: Ends in `.parquet` or `.jsonl`.

    Raises:
        InputError: for another ending, or if something else is there already.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        if self.path.suffix not in ENDINGS:
            raise InputError(f"output is {str(path)!r}; it must end in .jsonl or .parquet.")
        self.is_folder = self.path.suffix == ".parquet"
        self.rows = 0
        self._check()
        if self.is_folder:
            self.path.mkdir(parents=True, exist_ok=True)
            _sweep(self.path)
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _mend(self.path)

    def _check(self) -> None:
        """Refuses what is there and is no pool, or cannot be added to."""
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return
        if self.path.is_dir() != self.is_folder:
            raise InputError(
                f"{self.path} is there already; choose another output: a "
                f"{'single file, and a pool that grows is a folder' if self.is_folder else 'folder'}."
            )
        leftovers = self.is_folder and all(file.name.startswith(".part-") for file in self.path.iterdir())
        try:
            for file in [] if leftovers else pool_files(self.path):
                next(iter(rows_of(file, DONE_COLUMNS)), None)
            is_torn = not self.is_folder and self.path.read_bytes()[-1:] not in (b"", b"\n")
            if is_torn and next(iter(rows_of(self.path)), None) is None:
                raise InputError(f"{self.path} holds one line without an end")
        except InputError as error:
            raise InputError(
                f"{self.path} is there already; choose another output, or move it away: {error}"
            ) from error

    def done(self, origin: Origin, at_least: int = 1) -> set[tuple[str, str]]:
        """Source and uid of the problems that the same policy has answered in the same way, completely.

        Args:
            origin: Who draws, and how; run and step do not matter.
            at_least: Samples of a problem that are wanted.
        """
        same = (origin.policy, origin.strategy, origin.sampling)
        found: dict[tuple[str, str], set[str]] = {}
        wanted: Counter[tuple[str, str]] = Counter()
        for file in pool_files(self.path) if self._has_content() else []:
            for row in rows_of(file, DONE_COLUMNS):
                if (row["policy"], row["strategy"], row["sampling"]) == same:
                    key = (row["source"], row["uid"])
                    found.setdefault(key, set()).add(row["candidate"])
                    wanted[key] = max(wanted[key], row["samples"])
        return {key for key, those in found.items() if len(those) >= max(wanted[key], at_least)}

    def _has_content(self) -> bool:
        return any(self.path.glob("part-*.parquet")) if self.is_folder else self.path.exists()

    def write(self, candidates: Sequence[Candidate]) -> None:
        """Adds candidates, all of a problem together; they survive the death of this process."""
        if not candidates:
            return
        rows = [to_row(candidate) for candidate in candidates]
        if self.is_folder:
            _write_part(self.path, rows)
        else:
            _append(self.path, rows)
        self.rows += len(rows)


def merge(pools: Sequence[str | Path], output: str | Path) -> int:
    """Puts the candidates of several pools into one, which may be there already; returns how many were added.

    Raises:
        InputError: if one of them is no pool.
    """
    writer = PoolWriter(output)
    there = {candidate.uid for candidate in read_pool(output)} if writer._has_content() else set()
    for pool in pools:
        new = [candidate for candidate in read_pool(pool) if candidate.uid not in there]
        there |= {candidate.uid for candidate in new}
        writer.write(new)
    return writer.rows


def _write_part(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """One part: written beside its place, synced, renamed."""
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.Table.from_pylist(
        [{**row, "parts": list(row["parts"].items())} for row in rows], arrow_schema()
    )
    content = pa.BufferOutputStream()
    parquet.write_table(table, content)
    data = content.getvalue().to_pybytes()
    number = 1 + max((int(part.name.split("-")[1]) for part in folder.glob("part-*.parquet")), default=-1)
    name = f"part-{number:06d}-{hashlib.blake2b(data, digest_size=4).hexdigest()}.parquet"
    temporary = folder / f".{name}.tmp"
    with temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.rename(folder / name)
    _sync_folder(folder)


def _append(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    lines = [json.dumps({"schema": SCHEMA_VERSION, **row}, ensure_ascii=False) + "\n" for row in rows]
    with file.open("a", encoding="utf-8") as stream:
        stream.write("".join(lines))
        stream.flush()
        os.fsync(stream.fileno())


def _mend(file: Path) -> None:
    """Takes off a last line that has no end."""
    file.touch(exist_ok=True)
    data = file.read_bytes()
    if data and not data.endswith(b"\n"):
        with file.open("r+b") as stream:
            stream.truncate(data.rfind(b"\n") + 1)


def _sweep(folder: Path) -> None:
    for file in folder.glob(".part-*.tmp"):
        if time.time() - file.stat().st_mtime > ABANDONED_S:
            file.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
