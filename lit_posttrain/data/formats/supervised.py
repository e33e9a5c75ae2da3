"""Which rows supervised training learns from, and what of them."""

from lit_posttrain.data.formats.row_types import (
    Chat,
    Conversation,
    PreferenceRow,
    PromptRow,
    RankedRow,
    Row,
    StepwiseRow,
    TextRow,
    UnpairedRow,
)
from lit_posttrain.errors import InputError

FOR_OTHERS: dict[type, str] = {
    PromptRow: "has no worked answers to train on; name their column as completion",
    PreferenceRow: "holds preference rows, which reward models and DPO learn from; to learn the chosen answers "
    "alone, set learn_chosen: true",
    UnpairedRow: "holds answers with a verdict, which unpaired preference methods (KTO) learn from; to learn "
    "all of them, wanted or not, set layout: prompt_completion",
    RankedRow: "holds answers with scores, which reward models learn from; for supervised training give it "
    "conversations or texts",
    StepwiseRow: "holds steps with labels, which process reward models learn from; for supervised training "
    "give it conversations or texts",
}


def check_supervised(kind: type[Row], *, learn_chosen: bool, name: str) -> None:
    """
    Raises:
        InputError: for rows that are there for other methods, with the name of the table and the methods.
    """
    if kind in FOR_OTHERS and not (kind is PreferenceRow and learn_chosen):
        raise InputError(f"{name} {FOR_OTHERS[kind]}")


def learned(row: Row) -> Chat | Conversation | TextRow:
    """What supervised training learns from a row; of a preference, the chosen answer.

    A conversation without tools and weights is its messages alone.
    """
    if isinstance(row, PreferenceRow):
        row = Conversation(row.prompt + row.chosen, row.tools)
    if isinstance(row, TextRow):
        return row
    assert isinstance(row, Conversation)
    return row if row.tools or row.message_weights else row.messages
