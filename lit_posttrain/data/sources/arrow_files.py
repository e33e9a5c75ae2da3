"""Rows of Parquet files and of `datasets`: columns with types, read from disk when they are asked for."""

import bisect
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from lit_posttrain.data.formats import Unreadable
from lit_posttrain.data.sources.raw_rows import Raw, RawRows, file_digest
from lit_posttrain.errors import InputError

ROWS_AT_ONCE = 1024


class ParquetRows(RawRows):
    """A Parquet file. In memory is the row group that was asked for last.

    Raises:
        InputError: if it is no Parquet file.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._group: tuple[int, Any] = (-1, None)
        self._ends = list(
            accumulate(self._opened.metadata.row_group(i).num_rows for i in range(self._groups))
        )

    def __len__(self) -> int:
        return self._opened.metadata.num_rows

    def __iter__(self) -> Iterator[Raw]:
        batches = self._opened.iter_batches(ROWS_AT_ONCE)
        while (batch := self._guarded(lambda: next(batches, None))) is not None:
            yield from as_rows(batch)

    def row(self, number: int) -> Raw:
        group = bisect.bisect_right(self._ends, number)
        if self._group[0] != group:
            self._group = (group, self._guarded(lambda: self._opened.read_row_group(group)))
        start = self._ends[group - 1] if group else 0
        return as_rows(self._group[1].slice(number - start, 1))[0]

    def columns(self) -> list[str]:
        return list(self._opened.schema_arrow.names)

    def digest(self) -> str:
        return file_digest(self._file)

    def place(self, number: int) -> str:
        return self._file.name

    @cached_property
    def _opened(self) -> Any:
        from pyarrow import parquet

        return self._guarded(lambda: parquet.ParquetFile(self._file))

    @property
    def _groups(self) -> int:
        return self._opened.metadata.num_row_groups

    def _guarded(self, read: Any) -> Any:
        from pyarrow import ArrowException

        try:
            return read()
        except (ArrowException, OSError) as error:
            raise InputError(
                f"{self._file} is no readable Parquet file: {error}; write or fetch it again"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {"_file": self._file, "_group": (-1, None), "_ends": self._ends}


class DatasetRows(RawRows):
    """A `datasets.Dataset`, which lies on disk."""

    def __init__(self, dataset: Any) -> None:
        self._digest = str(dataset._fingerprint)[:16]
        self._dataset = dataset.with_format("arrow")

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[Raw]:
        for first in range(0, len(self), ROWS_AT_ONCE):
            yield from as_rows(self._dataset[first : first + ROWS_AT_ONCE])

    def row(self, number: int) -> Raw:
        return as_rows(self._dataset[number : number + 1])[0]

    def columns(self) -> list[str]:
        return list(self._dataset.column_names)

    def digest(self) -> str:
        return self._digest


def as_rows(table: Any) -> list[Raw]:
    """The rows of an Arrow table or batch; fields of objects that are null are left out.

    Arrow gives every object of a column the same fields: null is what it says where a row had none.
    """
    try:
        return [_row(row) for row in table.to_pylist()]
    except UnicodeDecodeError as error:
        if table.num_rows == 1:
            return [Unreadable(f"the row holds bytes that are no UTF-8: {error}")]
        return [as_rows(table.slice(number, 1))[0] for number in range(table.num_rows)]


def saved_splits(folder: Path) -> dict[str, RawRows]:
    """The splits of a folder that `save_to_disk` of `datasets` wrote.

    Raises:
        InputError: if it cannot be loaded.
    """
    from datasets import DatasetDict, load_from_disk
    from pyarrow import ArrowException

    try:
        loaded = load_from_disk(str(folder))
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        ArrowException,
    ) as error:  # whatever a broken file makes of it
        raise InputError(f"{folder} is no readable folder of datasets: {error}; save it again") from error
    return splits_of(loaded if isinstance(loaded, DatasetDict) else {"train": loaded})


def splits_of(loaded: Mapping[Any, Any]) -> dict[str, RawRows]:
    """The splits of a `DatasetDict`, or data sets by split."""
    return {str(split): DatasetRows(rows) for split, rows in loaded.items()}


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {column: _without_nulls(value) for column, value in row.items()}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        return [_without_nulls(inner) for inner in value]
    return value
