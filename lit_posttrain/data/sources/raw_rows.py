"""Rows as they stand in files, before a layout reads them: what every kind of file gives."""

import bisect
import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import overload

from lit_posttrain.data.formats import RawRow, Unreadable

Raw = RawRow | Unreadable
LOOKED_AT = 1000


class RawRows(Sequence[Raw]):
    """Rows by number, read when they are asked for. What is no row is an `Unreadable` in its place."""

    @abstractmethod
    def row(self, number: int) -> Raw:
        """Row `number`, from 0."""

    @abstractmethod
    def columns(self) -> list[str]:
        """The columns in the order in which they appear."""

    @abstractmethod
    def digest(self) -> str:
        """16 hex digits that change with the content."""

    def place(self, number: int) -> str:
        """Where row `number` stands, for a person to find it; empty where its number says it all."""
        return ""

    def __iter__(self) -> Iterator[Raw]:
        return map(self.row, range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Raw: ...
    @overload
    def __getitem__(self, index: slice) -> list[Raw]: ...
    def __getitem__(self, index: int | slice) -> Raw | list[Raw]:
        if isinstance(index, slice):
            return [self.row(number) for number in range(*index.indices(len(self)))]
        return self.row(range(len(self))[index])


class Listed(RawRows):
    """Rows in memory, with the line at which each begins.

    Args:
        rows: The rows.
        file: Where they are from.
        lines: The line of each.
    """

    def __init__(self, rows: Sequence[Raw], file: Path, lines: Sequence[int] = ()) -> None:
        self._rows, self._file, self._lines = rows, file, lines

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, number: int) -> Raw:
        return self._rows[number]

    def columns(self) -> list[str]:
        return columns_of(self._rows)

    def digest(self) -> str:
        return file_digest(self._file)

    def place(self, number: int) -> str:
        return f"{self._file.name}, line {self._lines[number]}" if self._lines else ""


class Chained(RawRows):
    """The rows of several files, one after the other."""

    def __init__(self, parts: Sequence[RawRows]) -> None:
        self._parts = parts
        self._ends = list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __iter__(self) -> Iterator[Raw]:
        for part in self._parts:
            yield from part

    def row(self, number: int) -> Raw:
        part, inner = self._find(number)
        return part.row(inner)

    def columns(self) -> list[str]:
        return list(dict.fromkeys(column for part in self._parts for column in part.columns()))

    def digest(self) -> str:
        return hashlib.blake2b("".join(p.digest() for p in self._parts).encode(), digest_size=8).hexdigest()

    def place(self, number: int) -> str:
        part, inner = self._find(number)
        return part.place(inner)

    def _find(self, number: int) -> tuple[RawRows, int]:
        index = bisect.bisect_right(self._ends, number)
        return self._parts[index], number - (self._ends[index - 1] if index else 0)


def columns_of(rows: Sequence[Raw]) -> list[str]:
    """The columns of the first rows in the order in which they appear; a row may lack some."""
    first = [row for row in rows[:LOOKED_AT] if not isinstance(row, Unreadable)]
    return list(dict.fromkeys(column for row in first for column in row))


def file_digest(file: Path) -> str:
    """16 hex digits of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
