"""Which layout a table is in, by its columns and its first rows."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Literal, get_args

from lit_posttrain.data.formats import conversation, converters, preference
from lit_posttrain.data.formats.cells import Cells, is_flag
from lit_posttrain.data.formats.layout import Layout
from lit_posttrain.data.formats.row_types import (
    Conversation,
    PreferenceRow,
    PromptRow,
    RankedRow,
    RawRow,
    StepwiseRow,
    TextRow,
    UnpairedRow,
    Unreadable,
)
from lit_posttrain.data.formats.stepwise import stepwise, whole
from lit_posttrain.errors import InputError

LayoutName = Literal[
    "text",
    "messages",
    "prompt",
    "prompt_completion",
    "preference",
    "preference_implicit",
    "unpaired",
    "ranked",
    "stepwise",
    "sharegpt",
    "alpaca",
    "prm800k",
    "stepwise_whole",
    "math_shepherd",
    "processbench",
    "math_aps",
    "hh_rlhf",
]


def recognise(
    columns: Sequence[str],
    first_rows: Iterable[RawRow | Unreadable] = (),
    *,
    names: Mapping[str, str] | None = None,
    name: str = "data",
) -> Layout:
    """The layout that the columns and the first rows show.

    One that needs more columns wins over one that needs a part of them: `prompt`, `chosen` and `rejected` are a
    preference with a prompt, not a prompt.

    Args:
        columns: The columns of the table.
        first_rows: Its first rows.
        names: The file's own names of columns, where they differ from a layout's.
        name: What messages call the table.

    Raises:
        InputError: if they show none or several; all of these are named, with the setting that decides.
    """
    rows = [row for row in first_rows if not isinstance(row, Unreadable)]
    usable = [layout for layout in LAYOUTS if set(names or {}) <= {*layout.columns, *layout.optional}]
    found = [layout.renamed(names or {}) for layout in usable]
    found = [layout for layout in found if set(layout.needed_columns) <= set(columns) and _fit(layout, rows)]
    best = [a for a in found if not any(set(a.needed_columns) < set(b.needed_columns) for b in found)]
    if len(best) == 1:
        return best[0]
    if best:
        raise InputError(
            f"the columns {list(columns)} of {name} show more than one layout ({_listed(best)}); "
            f"set layout to the one that is meant: {' or '.join(dict.fromkeys(b.name for b in best))}"
        )
    alike = [one.name for one in _converted(1.0) if set(one.columns) <= set(columns)]
    hint = f" They may be rows of {' or '.join(alike)}: then set layout to that." if alike else ""
    raise InputError(
        f"the columns {list(columns)} of {name} show no layout that is known ({_listed(LAYOUTS)}).{hint} "
        "Name the columns to read (columns: {text: COLUMN}, or prompt and completion)"
    )


def named(
    layout: str,
    columns: Sequence[str],
    *,
    names: Mapping[str, str] | None = None,
    neutral: float | None = 1.0,
    name: str = "data",
) -> Layout:
    """The layout of this name, for a table with these columns.

    Args:
        layout: Its name.
        columns: The columns of the table.
        names: The file's own names of columns, where they differ from the layout's.
        neutral: The label of a step that was rated neutral; None leaves it without one.
        name: What messages call the table.

    Raises:
        InputError: if there is none of this name, or the table lacks one of its columns.
    """
    meant = [one for one in (*LAYOUTS, *_converted(neutral)) if one.name == layout]
    if not meant:
        raise InputError(f"there is no layout {layout!r}; choose one of {', '.join(get_args(LayoutName))}")
    takes = [one for one in meant if set(names or {}) <= {*one.columns, *one.optional}] or meant[:1]
    known = [one.renamed(names or {}) for one in takes]
    for one in known:
        if set(one.needed_columns) <= set(columns):
            return one
    lacking = [column for column in known[0].needed_columns if column not in columns]
    raise InputError(
        f"{name} has no column {', '.join(lacking)}, which the layout {layout} needs; it has "
        f"{', '.join(columns)}. Set another layout, or name its columns (columns: {{{lacking[0]}: COLUMN}})"
    )


def _fit(layout: Layout, rows: Sequence[RawRow]) -> bool:
    return layout.fits([Cells(row, layout.names) for row in rows])


def _listed(layouts: Iterable[Layout]) -> str:
    return "; ".join(f"{layout.name}: {', '.join(layout.needed_columns)}" for layout in layouts)


def _labels_are_flags(first: Sequence[Cells]) -> bool:
    """A column `label` of truth values: with a real one among them, others are broken rows, not another layout."""
    labels = [cells.decoded("label") for cells in first if cells.has("label")]
    return any(isinstance(label, bool) for label in labels) or all(map(is_flag, labels))


def _speak(field: str, name: str, first: Sequence[Cells]) -> bool:
    """Whether the messages in the column `name` have this field; without rows to look at, they may."""
    values = [cells.decoded(name) for cells in first if cells.has(name)]
    messages = [message for value in values if isinstance(value, Sequence) for message in value]
    return not values or any(isinstance(message, Mapping) and field in message for message in messages)


def _converted(neutral: float | None) -> tuple[Layout, ...]:
    """Layouts that a config has to name."""
    rated = partial(converters.prm800k, neutral=neutral)
    return (
        Layout("stepwise_whole", ("prompt", "completion", "labels"), whole, StepwiseRow),
        Layout("hh_rlhf", ("chosen", "rejected"), preference.dialogues, PreferenceRow, PREFERENCE),
        Layout("prm800k", ("question", "label"), rated, StepwiseRow),
        Layout("prm800k", ("problem", "steps"), rated, StepwiseRow),
        Layout("math_shepherd", ("input", "label"), converters.math_shepherd, StepwiseRow),
        Layout("processbench", ("problem", "steps", "label"), converters.processbench, StepwiseRow),
        Layout("math_aps", ("question", "reasoning_steps"), converters.math_aps, RankedRow),
    )


PREFERENCE = ("margin", "score_chosen", "score_rejected", "weight", "tools")
LAYOUTS = (
    Layout("text", ("text",), conversation.text, TextRow),
    Layout("messages", ("messages",), conversation.messages, Conversation, ("tools",)),
    Layout("prompt", ("prompt",), conversation.prompt, PromptRow, ("tools",)),
    Layout(
        "prompt_completion",
        ("prompt", "completion"),
        conversation.prompt_completion,
        Conversation,
        ("tools",),
    ),
    Layout("preference", ("prompt", "chosen", "rejected"), preference.explicit, PreferenceRow, PREFERENCE),
    Layout("preference_implicit", ("chosen", "rejected"), preference.implicit, PreferenceRow, PREFERENCE),
    Layout(
        "unpaired",
        ("prompt", "completion", "label"),
        preference.unpaired,
        UnpairedRow,
        ("tools",),
        _labels_are_flags,
    ),
    Layout("ranked", ("prompt", "completions", "scores"), preference.ranked, RankedRow, ("tools",)),
    Layout("stepwise", ("prompt", "completions", "labels"), stepwise, StepwiseRow),
    Layout(
        "sharegpt",
        ("conversations",),
        conversation.sharegpt,
        Conversation,
        ("system", "tools"),
        partial(_speak, "from", "conversations"),
    ),
    Layout(
        "messages",
        ("messages",),
        conversation.messages,
        Conversation,
        ("tools",),
        partial(_speak, "role", "messages"),
        {"messages": "conversations"},
    ),
    Layout("alpaca", ("instruction", "output"), conversation.alpaca, Conversation, ("input", "system")),
)
