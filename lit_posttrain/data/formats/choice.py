"""The layout of a table: the one that a setting names, or the one that it shows."""

from collections.abc import Iterable, Mapping, Sequence

from lit_posttrain.data.formats.layout import Layout
from lit_posttrain.data.formats.recognise import LayoutName, named, recognise
from lit_posttrain.data.formats.row_types import RawRow, Unreadable
from lit_posttrain.errors import InputError


def choose(
    columns: Sequence[str],
    first_rows: Sequence[RawRow | Unreadable],
    *,
    layout: LayoutName | None,
    names: Mapping[str, str],
    neutral: float | None,
    name: str,
) -> Layout:
    """The layout to read a table with.

    Args:
        columns: The columns of the table.
        first_rows: Its first rows.
        layout: The name of the layout; None recognises it.
        names: The table's own names of columns, where they differ from the layout's.
        neutral: The label of a step that was rated neutral; None leaves it without one.
        name: What messages call the table.

    Raises:
        InputError: if no row can be read, a named column is missing, or the layout is not clear.
    """
    reasons = [row.reason for row in first_rows if isinstance(row, Unreadable)]
    if not columns and reasons:
        raise InputError(f"no row of {name} can be read: {'; '.join(reasons[:3])}")
    check_columns(names.values(), columns, name)
    if layout is None:
        return recognise(columns, first_rows, names=names, name=name)
    return named(layout, columns, names=names, neutral=neutral, name=name)


def check_columns(asked: Iterable[str], columns: Sequence[str], name: str) -> None:
    """
    Raises:
        InputError: for a column that the table does not have.
    """
    unknown = [column for column in asked if column not in columns]
    if unknown:
        raise InputError(f"{name} has no column {', '.join(unknown)}; it has {', '.join(columns)}")
