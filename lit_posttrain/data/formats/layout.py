"""A layout: which columns a row stands in, and what it says."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lit_posttrain.data.formats.cells import MAX_ROW_CHARACTERS, Cells, check_characters
from lit_posttrain.data.formats.row_types import BrokenRow, RawRow, Row, Unreadable
from lit_posttrain.errors import InputError


def _always(first: Sequence[Cells]) -> bool:
    return True


@dataclass(frozen=True)
class Layout:
    """A way to write one kind of row into columns.

    Args:
        name: What the setting `layout` calls it.
        columns: The columns that it needs.
        reader: Turns the cells of a row into one of the row types; raises `BrokenRow`.
        kind: The row type.
        optional: Columns that it reads where they are there.
        fits: Whether the first rows look like it, where columns alone do not tell.
        names: The file's own names of columns, where they differ.
    """

    name: str
    columns: tuple[str, ...]
    reader: Callable[[Cells], Row]
    kind: type[Row]
    optional: tuple[str, ...] = ()
    fits: Callable[[Sequence[Cells]], bool] = _always
    names: Mapping[str, str] = field(default_factory=dict)

    def read(self, row: RawRow | Unreadable, max_characters: int = MAX_ROW_CHARACTERS) -> Row:
        """What the row says.

        Raises:
            BrokenRow: if it cannot be read, with the reason.
        """
        if isinstance(row, Unreadable):
            raise BrokenRow(row.reason)
        check_characters(row, self.read_columns, max_characters)
        return self.reader(Cells(row, self.names))

    def renamed(self, names: Mapping[str, str]) -> "Layout":
        """The same layout in columns of other names.

        Raises:
            InputError: for the name of a column that it does not read.
        """
        known = (*self.columns, *self.optional)
        unknown = [name for name in names if name not in known]
        if unknown:
            raise InputError(
                f"the layout {self.name} reads no {', '.join(unknown)}; it reads {', '.join(known)}. "
                "Rename those, or set another layout"
            )
        return replace(self, names={**self.names, **names})

    def column(self, name: str) -> str:
        """The file's name of a column."""
        return self.names.get(name, name)

    @property
    def needed_columns(self) -> tuple[str, ...]:
        """The columns that must be there, by the file's names."""
        return tuple(map(self.column, self.columns))

    @property
    def read_columns(self) -> tuple[str, ...]:
        """The columns that are read where they are there, by the file's names."""
        return (*self.needed_columns, *map(self.column, self.optional))
