"""Pools of candidates on disk: their columns, and the reading of them.

A pool is a folder of Parquet parts, one Parquet file, or a JSON-lines file with the same columns. Writing is in
`rollouts/pool.py`. A candidate that stands twice counts once; the later row is taken.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_posttrain.candidates import Candidate, from_row
from lit_posttrain.errors import InputError

SCHEMA_VERSION = 1
VERSION_KEY = "lit_posttrain.pool"
TEXTS = ("candidate", "parent", "uid", "source", "messages", "reference", "prompt", "completion", "stop")
GRADED = ("verdict", "answer_key", "note")
DRAWN = ("strategy", "sampling", "policy", "run_id")
WHOLES = ("sample", "samples", "tokens", "step")
NUMBERS = ("reward", "mean_logprob_nats", "flops", "seconds")
FLAGS = ("correct", "chosen")
IDS = ("prompt_ids", "token_ids")


def arrow_schema() -> Any:
    """The columns of a part, with the version in the metadata."""
    import pyarrow as pa

    columns: list[tuple[str, Any]] = [
        *[(name, pa.string()) for name in (*TEXTS, *GRADED, *DRAWN)],
        *[(name, pa.int64()) for name in WHOLES],
        *[(name, pa.float64()) for name in NUMBERS],
        *[(name, pa.bool_()) for name in FLAGS],
        *[(name, pa.list_(pa.int32())) for name in IDS],
        ("logprobs", pa.list_(pa.float32())),
        ("parts", pa.map_(pa.string(), pa.float64())),
    ]
    return pa.schema(columns, metadata={VERSION_KEY: str(SCHEMA_VERSION)})


def read_pool(path: str | Path) -> list[Candidate]:
    """Every candidate of a pool, each once, in the order in which they were first written.

    Raises:
        InputError: if there is no pool there, a part is damaged or of another version, or a row makes no sense.
    """
    found: dict[str, Candidate] = {}
    for file in pool_files(path):
        for number, row in enumerate(rows_of(file)):
            try:
                candidate = from_row(row)
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(f"row {number} of the pool {file} is no candidate: {error!r}") from error
            found[row["candidate"]] = candidate
    return list(found.values())


def pool_files(path: str | Path) -> list[Path]:
    """The files that a pool consists of, in the order of writing.

    Raises:
        InputError: if there is none.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        parts = sorted(place.glob("part-*.parquet"))
        if not parts:
            there = ", ".join(sorted(file.name for file in place.iterdir())[:5]) or "nothing"
            raise InputError(f"the folder {place} is no pool: it has no part-*.parquet, but {there}")
        return parts
    if not place.is_file():
        raise InputError(f"there is no pool {place}; `lit-posttrain predict` writes one (model.output)")
    if place.suffix not in (".parquet", ".jsonl"):
        raise InputError(f"{place} is no pool; pools are folders or files that end in .parquet or .jsonl")
    return [place]


def rows_of(file: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of one file of a pool; all columns, or those named.

    Raises:
        InputError: if it is damaged, foreign or of another version.
    """
    if file.suffix == ".jsonl":
        yield from _lines(file)
        return
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as opened:
            check_version(opened.schema_arrow.metadata or {}, opened.schema_arrow.names, file)
            for batch in opened.iter_batches(columns=None if columns is None else list(columns)):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{file} cannot be read as Parquet ({str(error).splitlines()[0]}); it is damaged or no pool: "
            "remove it and run `predict` again, which draws what is missing"
        ) from error


def check_version(metadata: Mapping[bytes, bytes], columns: Sequence[str], file: Path) -> None:
    """
    Raises:
        InputError: for Parquet that is no pool, or a pool of another version.
    """
    found = metadata.get(VERSION_KEY.encode())
    if found is None:
        shown = ", ".join(columns[:8])
        raise InputError(
            f"{file} is Parquet, but no pool of candidates (columns {shown}); to train on other files, use "
            "the source Table"
        )
    _same_version(found.decode(), file)
    missing = set(arrow_schema().names) - set(columns)
    if missing:
        raise InputError(f"the pool {file} has no column {', '.join(sorted(missing))}; it was changed")


def _same_version(found: Any, file: Path) -> None:
    if str(found) != str(SCHEMA_VERSION):
        raise InputError(
            f"the pool {file} is of version {found}, and this code reads version {SCHEMA_VERSION}; "
            "draw it again, or read it with the release that wrote it"
        )


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            if not line.endswith("\n"):
                return  # torn by the death of its writer; its problem is drawn again
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"line {number} of {file} is no JSON: {error}") from error
            if not isinstance(row, dict) or "schema" not in row or "candidate" not in row:
                raise InputError(
                    f"line {number} of {file} is no candidate of a pool, but {line.strip()[:60]!r}"
                )
            _same_version(row["schema"], file)
            yield row
