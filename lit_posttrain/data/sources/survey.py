"""One pass over a table: its layout, which rows can be read, which split each belongs to, what is told of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

import numpy as np

from lit_posttrain.data.formats import (
    BrokenRow,
    Layout,
    Row,
)
from lit_posttrain.data.formats.messages import FIELDS
from lit_posttrain.data.quarantine import Quarantine
from lit_posttrain.data.sources.raw_rows import Raw, RawRows
from lit_posttrain.data.sources.splitting import SPLITS

BROKEN = -1
T = TypeVar("T")


@dataclass(frozen=True)
class Survey:
    """What a table holds.

    Args:
        raw: Its rows as they stand.
        layout: How they are read.
        read: What a row says; raises `BrokenRow`.
        splits: For each row the number of its split in `SPLITS`, or `BROKEN`; (rows,) int8.
        report: What is printed at start.
    """

    raw: RawRows
    layout: Layout
    read: Callable[[Raw], Row]
    splits: np.ndarray
    report: str

    def numbers(self, split: str) -> np.ndarray:
        """The numbers of the rows of a split, in order."""
        return np.flatnonzero(self.splits == SPLITS.index(split))


class Picked(Sequence[T], Generic[T]):
    """Some rows of a table, in order, each read when it is asked for.

    Args:
        raw: The rows as they stand.
        numbers: Which of them.
        read: What becomes of each.
    """

    def __init__(self, raw: RawRows, numbers: np.ndarray, read: Callable[[Any], T]) -> None:
        self._raw, self._numbers, self._read = raw, numbers, read

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[T]:
        if not len(self):
            return
        wanted = iter(self._numbers.tolist())
        number = next(wanted)
        for index, row in enumerate(self._raw):
            if index == number:
                yield self._read(row)
                number = next(wanted, -1)
                if number < 0:
                    return

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self._read(self._raw[number]) for number in self._numbers[index].tolist()]
        return self._read(self._raw[int(self._numbers[index])])


def survey(
    raw: RawRows,
    layout: Layout,
    split: Callable[[Row], str],
    quarantine: Quarantine,
    read: Callable[[Raw], Row],
) -> Survey:
    """Reads every row once.

    Args:
        raw: The rows.
        layout: Their layout.
        split: The split of a row.
        quarantine: Takes in the broken ones.
        read: What a row says; raises `BrokenRow`.

    Raises:
        InputError: if too many rows are broken.
    """
    splits = np.full(len(raw), BROKEN, dtype=np.int8)
    for number, row in enumerate(raw):
        try:
            splits[number] = SPLITS.index(split(read(row)))
        except BrokenRow as error:
            quarantine.add(number, str(error), row, raw.place(number))
    quarantine.close()
    return Survey(raw, layout, read, splits, _report(raw, layout, quarantine))


def _report(raw: RawRows, layout: Layout, quarantine: Quarantine) -> str:
    columns = raw.columns()
    read = [column for column in columns if column in layout.read_columns]
    ignored = [column for column in columns if column not in layout.read_columns]
    lines = [
        f"{quarantine.name}: {len(raw):,} rows in the layout {layout.name}, read from {', '.join(read)}; "
        f"columns not read: {', '.join(ignored) or 'none'}"
    ]
    fields = _ignored_fields(raw[:100], read)
    if fields:
        lines.append(f"  fields of messages that are not read: {', '.join(fields)}")
    if len(quarantine):
        lines.append(f"  {quarantine.told()}")
    return "\n".join(lines)


def _ignored_fields(rows: Sequence[Raw], columns: Sequence[str]) -> list[str]:
    cells = [row[column] for row in rows if isinstance(row, Mapping) for column in columns if column in row]
    lists = [cell for cell in cells if isinstance(cell, list)]
    messages = [message for one in lists for message in one if isinstance(message, Mapping)]
    said = [message for message in messages if "role" in message]
    return sorted({str(field) for message in said for field in message} - set(FIELDS))
