"""Rows of text files: JSON lines, a JSON list, CSV. What is wrong in one line is no one else's fault."""

import csv
import gzip
import json
import os
import shutil
import tempfile
import weakref
import zlib
from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from lit_posttrain.data.formats import Unreadable, Written
from lit_posttrain.data.sources.raw_rows import Listed, Raw, RawRows, columns_of, file_digest
from lit_posttrain.errors import InputError

BOM = b"\xef\xbb\xbf"


class JsonLines(RawRows):
    """A file with a JSON object on each line; blank lines are no rows.

    Only the offsets of the lines are held in memory. A packed file is unpacked into a temporary one.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def __len__(self) -> int:
        return len(self._lines)

    def row(self, number: int) -> Raw:
        start, line = self._starts[number], self._lines[number]
        length = self._lengths[number]
        return parse_line(os.pread(self._handle, length, start), f"line {line} of {self._file}")

    def columns(self) -> list[str]:
        return columns_of(self)

    def digest(self) -> str:
        return file_digest(self._file)

    def place(self, number: int) -> str:
        return f"{self._file.name}, line {self._lines[number]}"

    @cached_property
    def _handle(self) -> int:
        """A file descriptor that is closed with this object."""
        with unpacked(self._file) as stream:
            handle = os.dup(stream.fileno())
        weakref.finalize(self, os.close, handle)
        return handle

    @cached_property
    def _index(self) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
        """Start and length in bytes, and number, of each line that is not blank."""
        starts, lengths, numbers = array("q"), array("q"), array("q")
        position = 0
        with os.fdopen(os.dup(self._handle), "rb") as stream:
            stream.seek(0)
            for number, line in enumerate(stream, 1):
                if line.strip():
                    starts.append(position)
                    lengths.append(len(line))
                    numbers.append(number)
                position += len(line)
        return starts, lengths, numbers

    @property
    def _starts(self) -> Sequence[int]:
        return self._index[0]

    @property
    def _lengths(self) -> Sequence[int]:
        return self._index[1]

    @property
    def _lines(self) -> Sequence[int]:
        return self._index[2]

    def __getstate__(self) -> dict[str, Any]:
        return {"_file": self._file}  # a process of its own opens the file anew


def parse_line(line: bytes, place: str) -> Raw:
    """The JSON object on a line, or what is wrong with it."""
    try:
        value = json.loads(line.removeprefix(BOM).decode())
    except UnicodeDecodeError as error:
        return Unreadable(f"{place} is no UTF-8 at byte {error.start}", repr(line[:200]))
    except (ValueError, RecursionError) as error:
        return Unreadable(f"{place} is no JSON: {error}", line[:200].decode(errors="replace"))
    if not isinstance(value, dict):
        return Unreadable(f"{place} must be a JSON dict, but is {line[:60].decode()!r}")
    return value


def json_file(file: Path) -> RawRows:
    """A JSON list of objects; a file that begins with an object is taken for JSON lines.

    Raises:
        InputError: if the file as a whole is no JSON.
    """
    with unpacked(file) as stream:
        whole = stream.read().removeprefix(BOM)
    if whole.lstrip()[:1] == b"{":
        return JsonLines(file)
    try:
        rows = json.loads(whole.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is no JSON: {error}; repair it, or give JSON lines") from error
    if not isinstance(rows, list):
        raise InputError(f"{file} must be a JSON list of objects, but is {whole[:60]!r}")
    return Listed([_object(row, number, file) for number, row in enumerate(rows)], file)


def csv_file(file: Path) -> RawRows:
    """A CSV file with a header, separated by commas. Cells are texts; lists, numbers and truth values as in JSON.

    Raises:
        InputError: for a header that is missing, or names a column twice.
    """
    limit = csv.field_size_limit(2**31 - 1)
    try:
        with unpacked(file) as stream:
            rows = csv.reader(_decoded_lines(stream))
            header = next(rows, [])
            if not header or len(set(header)) < len(header):
                raise InputError(
                    f"{file} must begin with a header that names every column once, but: {header}"
                )
            found, lines = [], array("q")
            while (row := _next_cells(rows, header, file)) is not None:
                if row:
                    found.append(row)
                    lines.append(rows.line_num)
    finally:
        csv.field_size_limit(limit)
    return Listed(found, file, lines)


def _next_cells(rows: Any, header: list[str], file: Path) -> Raw | None:
    """The next row; empty for a blank line, None at the end."""
    try:
        cells = next(rows)
    except StopIteration:
        return None
    except csv.Error as error:
        return Unreadable(f"line {rows.line_num} of {file} is no CSV: {error}")
    if len(cells) not in (0, len(header)):
        reason = f"line {rows.line_num} of {file} has {len(cells)} cells, but the header has {len(header)}"
        return Unreadable(reason, repr(cells[:5])[:200])
    return dict(zip(header, map(Written, cells), strict=False)) if cells else {}


def _decoded_lines(stream: IO[bytes]) -> Iterator[str]:
    """Lines as text. Bytes that are no UTF-8 become lone surrogates, which the layout finds in their row."""
    for number, line in enumerate(stream):
        yield (line if number else line.removeprefix(BOM)).decode(errors="surrogateescape")


def _object(row: Any, number: int, file: Path) -> Raw:
    return (
        row
        if isinstance(row, dict)
        else Unreadable(f"entry {number} of {file} is no JSON object", repr(row)[:200])
    )


def unpacked(file: Path) -> IO[bytes]:
    """The bytes of a file, those of a packed one in a temporary file. The caller closes it.

    Raises:
        InputError: if it cannot be read, or is packed and damaged.
    """
    try:
        return file.open("rb") if file.suffix != ".gz" else _unpacked_copy(file)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file} cannot be read: {error}; unpack or fetch it again") from error


def _unpacked_copy(file: Path) -> IO[bytes]:
    copy = tempfile.TemporaryFile()  # noqa: SIM115  the caller closes it
    try:
        with gzip.open(file) as packed:
            shutil.copyfileobj(packed, copy, 1 << 20)
    except BaseException:
        copy.close()
        raise
    copy.seek(0)
    return copy
