"""Column layouts of the field, and what their rows say: `docs/formats.md` has an example of each."""

from lit_posttrain.data.formats.cells import MAX_ROW_CHARACTERS, Written
from lit_posttrain.data.formats.layout import Layout
from lit_posttrain.data.formats.recognise import LayoutName, named, recognise
from lit_posttrain.data.formats.row_types import (
    BrokenRow,
    Chat,
    Conversation,
    Message,
    PreferenceRow,
    PromptRow,
    RankedRow,
    RawRow,
    Row,
    StepwiseRow,
    TextRow,
    Tools,
    UnpairedRow,
    Unreadable,
    shown,
)

__all__ = [
    "MAX_ROW_CHARACTERS",
    "BrokenRow",
    "Chat",
    "Conversation",
    "Layout",
    "LayoutName",
    "Message",
    "PreferenceRow",
    "PromptRow",
    "RankedRow",
    "RawRow",
    "Row",
    "StepwiseRow",
    "TextRow",
    "Tools",
    "UnpairedRow",
    "Unreadable",
    "Written",
    "named",
    "recognise",
    "shown",
]
