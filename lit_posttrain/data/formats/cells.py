"""The cells of a row: there or missing, of the right type, and made of characters that a tokenizer can take."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_posttrain.data.formats.row_types import BrokenRow, RawRow, shown

MAX_ROW_CHARACTERS = 8_000_000


class Written(str):
    """A cell of a CSV file: a text that may stand for a number, a truth value or a list."""

    __slots__ = ()


@dataclass(frozen=True)
class Cells:
    """A row under the names of its layout; `names` says which column stands for a name, where they differ."""

    row: RawRow
    names: Mapping[str, str]

    def column(self, name: str) -> str:
        """The column that stands for a name."""
        return self.names.get(name, name)

    def has(self, name: str) -> bool:
        """Whether there is a value; an empty cell of a CSV file is none."""
        value = self.row.get(self.column(name))
        return value is not None and not (isinstance(value, Written) and not value)

    def value(self, name: str) -> Any:
        """The cell as it stands; `BrokenRow` where it is missing."""
        if not self.has(name):
            raise BrokenRow(f"{self.column(name)} is missing")
        return self.row[self.column(name)]

    def decoded(self, name: str) -> Any:
        """The cell; that of a CSV file as the JSON value that it spells, where it spells one."""
        value = self.value(name)
        if not isinstance(value, Written):
            return value
        try:
            return json.loads(value.lower() if value.lower() in ("true", "false") else value)
        except (ValueError, RecursionError):
            return value

    def said(self, name: str) -> Any:
        """A text or a list of messages as it stands; a CSV cell is a list only if it spells one of objects."""
        value, decoded = self.value(name), self.decoded(name)
        spells_messages = isinstance(decoded, list) and all(isinstance(item, Mapping) for item in decoded)
        return str(value) if isinstance(value, Written) and not (decoded and spells_messages) else decoded

    def text(self, name: str) -> str:
        """A text; it may be empty."""
        value = self.value(name)
        if not isinstance(value, str):
            raise BrokenRow(f"{self.column(name)} must be a text, but is {shown(value)}")
        return str(value)

    def filled_text(self, name: str) -> str:
        """A text that is more than blanks."""
        text = self.text(name)
        if not text.strip():
            raise BrokenRow(f"{self.column(name)} is empty")
        return text

    def list(self, name: str) -> list[Any]:
        """A list with something in it."""
        value = self.decoded(name)
        if isinstance(value, str) or not isinstance(value, Sequence) or not value:
            raise BrokenRow(f"{self.column(name)} must be a filled list, but is {shown(value)}")
        return [*value]

    def number(self, name: str) -> float:
        """A finite number."""
        return as_number(self.decoded(name), self.column(name))

    def flag(self, name: str) -> bool:
        """A truth value, 0 or 1."""
        value = self.decoded(name)
        if not is_flag(value):
            raise BrokenRow(f"{self.column(name)} must be true or false, but is {shown(value)}")
        return bool(value)


def is_flag(value: Any) -> bool:
    """Whether this is true, false, 0 or 1."""
    return isinstance(value, bool | int | float) and value in (0, 1)


def as_number(value: Any, name: str) -> float:
    """A finite number; `BrokenRow` for anything else, truth values too."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BrokenRow(f"{name} must be a finite number, but is {shown(value)}")
    return float(value)


def check_characters(row: RawRow, columns: Sequence[str], max_characters: int) -> None:
    """Refuses texts that no tokenizer should see, however deep in the cells of these columns they stand.

    Raises:
        BrokenRow: for more than `max_characters` in all, a NUL, bytes that were no UTF-8, a lone surrogate.
    """
    total = 0
    for column in columns:
        for text in _texts(row.get(column)):
            total += len(text)
            if total > max_characters:
                raise BrokenRow(
                    f"the row has more than {max_characters:,} characters of text, up to {column}; "
                    "shorten it, or raise quarantine.max_row_characters"
                )
            _check_text(text, column)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(key)
            yield from _texts(inner)
    elif isinstance(value, Sequence):
        for inner in value:
            yield from _texts(inner)


def _check_text(text: str, column: str) -> None:
    if "\x00" in text:
        raise BrokenRow(f"{column} holds a NUL character at position {text.index(chr(0))}")
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        what = "a byte that is no UTF-8" if 0xDC80 <= code <= 0xDCFF else f"the lone surrogate {code:#06x}"
        raise BrokenRow(f"{column} holds {what} at position {error.start}") from error
