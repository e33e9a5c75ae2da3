"""Where broken rows go: a file with row number and reason of each, and a limit above which the run stops."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_posttrain.data.formats import MAX_ROW_CHARACTERS, RawRow, Unreadable, shown
from lit_posttrain.errors import InputError

TOLD = 3


@dataclass(frozen=True)
class QuarantineSettings:
    """What is broken, how much of it is borne, and where it is written down.

    Args:
        max_bad_fraction: The run stops if more than this share of the rows is broken; 0 bears none.
        max_row_characters: A row with more characters in the columns that are read is broken.
        folder: Where the broken rows are listed; `lit-posttrain/quarantine` in the user's cache folder by default.
    """

    max_bad_fraction: float = 0.01
    max_row_characters: int = MAX_ROW_CHARACTERS
    folder: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.max_bad_fraction <= 1 or self.max_row_characters < 1:
            raise InputError(
                "quarantine needs max_bad_fraction in [0, 1] and max_row_characters >= 1 "
                f"(got {self.max_bad_fraction} and {self.max_row_characters})"
            )

    def file(self, name: str) -> Path:
        """A file of this name in the folder."""
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        folder = self.folder if self.folder is not None else f"{cache}/lit-posttrain/quarantine"
        return Path(folder).expanduser() / name


class Quarantine:
    """The broken rows of one table.

    Args:
        path: The file that lists them, as JSON lines of `row` (its number, from 0), `reason`, where it stands and
            its beginning. It is written when the table has been read, or the limit is passed; a table without
            broken rows has none.
        max_bad_fraction: More than this share of the rows is an error.
        rows: How many rows the table has.
        name: What messages call the table.
    """

    def __init__(
        self, path: str | Path, max_bad_fraction: float = 0.01, *, rows: int, name: str = "data"
    ) -> None:
        self.path, self.max_bad_fraction, self.rows, self.name = Path(path), max_bad_fraction, rows, name
        self.broken: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self.broken)

    def add(self, number: int, reason: str, row: RawRow | Unreadable, place: str = "") -> None:
        """Takes in row `number`.

        Raises:
            InputError: if there are now too many, so that reading on is of no use.
        """
        self.broken.append({"row": number, "reason": reason, "place": place, "begins": _shortened(row)})
        if len(self) >= TOLD and self._too_many():
            self._stop(number + 1)

    def close(self) -> None:
        """Writes the file, once all rows have been read.

        Raises:
            InputError: if too many are broken.
        """
        if self._too_many():
            self._stop(self.rows)
        self._write()

    def told(self) -> str:
        """Count, share, file and the first reasons, in one line; empty where nothing is broken."""
        if not self.broken:
            return ""
        return f"{len(self):,} of {self.rows:,} rows are broken and left out, listed in {self.path}: {self._reasons()}"

    def _too_many(self) -> bool:
        return len(self) > self.max_bad_fraction * self.rows

    def _stop(self, read: int) -> None:
        self._write()
        of = f"{self.rows:,} rows" if read == self.rows else f"the first {read:,} rows (of {self.rows:,})"
        raise InputError(
            f"{len(self):,} of {of} of {self.name} {'is' if len(self) == 1 else 'are'} broken, and at most "
            f"{self.max_bad_fraction:.2%} may be: {self._reasons()}. They are listed in {self.path}. Repair or "
            "remove them, set layout if they are in another one, or raise quarantine.max_bad_fraction"
        )

    def _reasons(self) -> str:
        first = [
            f"row {one['row']}{' of ' + one['place'] if one['place'] else ''}: {one['reason']}"
            for one in self.broken[:TOLD]
        ]
        return "; ".join([*first, *(["…"] if len(self) > TOLD else [])])

    def _write(self) -> None:
        """The whole file at once, so that processes that read the same table do not disturb each other."""
        if not self.broken:
            self.path.unlink(missing_ok=True)  # from a time when it had broken rows
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            draft = self.path.with_name(f"{self.path.name}.{os.getpid()}")
            draft.write_text("".join(json.dumps(one) + "\n" for one in self.broken), encoding="utf-8")
            draft.replace(self.path)
        except OSError as error:
            raise InputError(
                f"the broken rows of {self.name} cannot be listed in {self.path} ({error.strerror}); "
                "set quarantine.folder to a folder that can be written"
            ) from error


def _shortened(row: RawRow | Unreadable) -> Any:
    if isinstance(row, Unreadable):
        return shown(row.text, 200)
    if isinstance(row, Mapping):
        return {str(column)[:80]: shown(value, 200) for column, value in row.items()}
    return shown(row, 200)
