"""Rows of a table by split: local files, a folder that `datasets` saved, or a hub data set."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from lit_posttrain.data.sources.arrow_files import ParquetRows, saved_splits, splits_of
from lit_posttrain.data.sources.raw_rows import Chained, RawRows
from lit_posttrain.data.sources.splitting import SPLITS
from lit_posttrain.data.sources.text_files import JsonLines, csv_file, json_file
from lit_posttrain.errors import InputError

READERS: dict[str, Callable[[Path], RawRows]] = {
    ".jsonl": JsonLines,
    ".jsonl.gz": JsonLines,
    ".json": json_file,
    ".json.gz": json_file,
    ".parquet": ParquetRows,
    ".csv": csv_file,
    ".csv.gz": csv_file,
}
SAVED = ("dataset_dict.json", "state.json")

Stamp = tuple[tuple[str, int, int], ...]


@lru_cache(maxsize=8)
def read_splits(path: str, configuration: str | None = None, stamp: Stamp = ()) -> dict[str, RawRows]:
    """The rows of every split that `path` has; they are read when they are asked for.

    A file is the training split. A folder has a file per split, such as `train.jsonl.gz` or
    `test-00000-of-00001.parquet`, in itself or in `data/`, or is one that `datasets` saved. Anything else is a
    hub name.

    Args:
        path: Where they are.
        configuration: Configuration of a hub data set.
        stamp: `stamp_of(path)`, so that files that have changed are read anew.

    Raises:
        InputError: if there is nothing to read there.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return {"train": _rows_of([place])}
    if not place.is_dir():
        return _hub_splits(path, configuration)
    if any((place / name).is_file() for name in SAVED):
        return saved_splits(place)
    return {split: _rows_of(files) for split, files in _split_files(place).items()}


def stamp_of(path: str) -> Stamp:
    """Name, size and time of the files at a place; empty for a hub name."""
    place = Path(path).expanduser()
    found = [place] if place.is_file() else sorted(place.glob("*")) + sorted(place.glob("*/*"))
    stats = [(str(file), file.stat()) for file in found if file.is_file()]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def _split_files(folder: Path) -> dict[str, list[Path]]:
    places = [folder, folder / "data"]
    files = [file for place in places if place.is_dir() for file in sorted(place.iterdir())]
    files = [file for file in files if file.name.endswith(tuple(READERS))]
    found = {split: [f for f in files if f.name.split(".")[0].split("-")[0] == split] for split in SPLITS}
    if not found["train"] and not found["test"]:
        there = ", ".join(file.name for file in files) or "no such file"
        raise InputError(
            f"the folder {folder} needs files named after their split, such as train.jsonl.gz or "
            f"test.parquet ({', '.join(READERS)}); there are: {there}. Rename them, or give one file as path"
        )
    return {split: files for split, files in found.items() if files}


def _rows_of(files: Sequence[Path]) -> RawRows:
    parts = [_reader(file)(file) for file in files]
    return parts[0] if len(parts) == 1 else Chained(parts)


def _reader(file: Path) -> Callable[[Path], RawRows]:
    for ending, reader in READERS.items():
        if file.name.endswith(ending):
            return reader
    raise InputError(f"{file} is of no kind that can be read; its name must end in {', '.join(READERS)}")


def _hub_splits(path: str, configuration: str | None) -> dict[str, RawRows]:
    """Every split of a hub data set; `HF_HUB_OFFLINE` is respected."""
    from datasets import DatasetDict, load_dataset

    if path.startswith((".", "/", "~")) or path.count("/") > 1 or path.endswith(tuple(READERS)):
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
    return splits_of(loaded)
