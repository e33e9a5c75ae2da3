"""Rows of a table by split: local JSON lines or Parquet, or a hub data set."""

import gzip
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from lit_posttrain.data.sources.splitting import SPLITS
from lit_posttrain.errors import InputError

Row = Mapping[str, Any]
ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")


@lru_cache(maxsize=8)
def read_splits(path: str, configuration: str | None = None) -> dict[str, Sequence[Row]]:
    """The rows of every split that `path` has.

    A file is the training split. A folder has a file per split, such as `train.jsonl.gz` or
    `test-00000-of-00001.parquet`, in itself or in `data/`. Anything else is a hub name.

    Raises:
        InputError: if there is nothing to read there, a line is no JSON object, or a split has no rows.
    """
    place = Path(path).expanduser()
    if place.is_file():
        found = {"train": [place]}
    elif place.is_dir():
        found = _split_files(place)
    else:
        return _hub_splits(path, configuration)
    return {split: _checked(_read_files(files), f"{path} ({split})") for split, files in found.items()}


def columns_of(rows: Sequence[Row]) -> list[str]:
    """The columns of a table in the order they appear; a row may lack some."""
    return list(dict.fromkeys(column for row in rows for column in row))


def _split_files(folder: Path) -> dict[str, list[Path]]:
    places = [folder, folder / "data"]
    files = [file for place in places if place.is_dir() for file in sorted(place.iterdir())]
    files = [file for file in files if file.name.endswith(ENDINGS)]
    found = {split: [f for f in files if f.name.split(".")[0].split("-")[0] == split] for split in SPLITS}
    if not found["train"] and not found["test"]:
        there = ", ".join(file.name for file in files) or "no such file"
        raise InputError(
            f"the folder {folder} needs files named after their split, such as train.jsonl.gz or "
            f"test.parquet ({', '.join(ENDINGS)}); there are: {there}. Rename them, or give one file as path"
        )
    return {split: files for split, files in found.items() if files}


def _read_files(files: Sequence[Path]) -> list[Row]:
    return [row for file in files for row in (_parquet(file) if file.suffix == ".parquet" else _json(file))]


def _parquet(file: Path) -> list[Row]:
    from pyarrow import ArrowInvalid, parquet

    try:
        return parquet.read_table(file).to_pylist()
    except ArrowInvalid as error:
        raise InputError(f"{file} is no Parquet file: {error}") from error


def _json(file: Path) -> list[Row]:
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rt", encoding="utf-8") as stream:
        if ".jsonl" in file.name:
            rows = [_line(line, number, file) for number, line in enumerate(stream, 1) if line.strip()]
        else:
            rows = _line(stream.read(), 1, file, list)
    if not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{file} must hold JSON objects, one per row; it holds something else")
    return rows


def _line(text: str, number: int, file: Path, kind: type = dict) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"line {number} of {file} is no JSON: {error}; repair or remove it") from error
    if not isinstance(value, kind):
        raise InputError(f"line {number} of {file} must be a JSON {kind.__name__}, but is {text[:60]!r}")
    return value


def _hub_splits(path: str, configuration: str | None) -> dict[str, Sequence[Row]]:
    """Every split of a hub data set; `HF_HUB_OFFLINE` is respected."""
    from datasets import DatasetDict, load_dataset

    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise InputError(f"there is no file or folder {path}; give an existing one, or a hub name")
    try:
        loaded = load_dataset(path, configuration)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"the data set {path!r} could not be loaded from the hub ({reason}); to work offline, give a "
            "local folder with train.jsonl.gz, test.jsonl.gz or Parquet files as path"
        ) from error
    assert isinstance(loaded, DatasetDict)
    return {str(split): _checked(rows.to_list(), f"{path} ({split})") for split, rows in loaded.items()}


def _checked(rows: Sequence[Row], name: str) -> Sequence[Row]:
    if not rows:
        raise InputError(f"{name} has no rows; check the path and the split")
    return rows
