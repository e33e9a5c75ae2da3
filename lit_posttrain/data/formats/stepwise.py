"""The layout of solutions in steps, each with a label."""

from collections.abc import Sequence
from typing import Any

from lit_posttrain.data.formats.cells import Cells, as_number
from lit_posttrain.data.formats.messages import as_messages, ending_in_question
from lit_posttrain.data.formats.row_types import BrokenRow, StepwiseRow, shown


def stepwise(cells: Cells) -> StepwiseRow:
    """`prompt`, `completions`: texts, one for each step, and `labels`: true, false, in [0, 1] or null."""
    asked = ending_in_question(as_messages(cells, "prompt", "user"))
    steps, labels = cells.list("completions"), cells.list("labels")
    labels = [as_label(label, f"label {i} of {cells.column('labels')}") for i, label in enumerate(labels)]
    return StepwiseRow(asked, *checked(steps, labels))


def whole(cells: Cells) -> StepwiseRow:
    """`prompt`, `completion`: a solution that is still to be cut into steps, and `labels`, one for each."""
    asked = ending_in_question(as_messages(cells, "prompt", "user"))
    values = cells.list("labels")
    labels = [as_label(label, f"label {i} of {cells.column('labels')}") for i, label in enumerate(values)]
    solution = cells.filled_text("completion")
    if all(label is None for label in labels):
        raise BrokenRow("no step has a label")
    return StepwiseRow(asked, [solution], labels)


def checked(steps: Sequence[Any], labels: Sequence[float | None]) -> tuple[list[str], list[float | None]]:
    """The steps and labels, if there is a text and a label for each, and one label at least is known."""
    for number, step in enumerate(steps):
        if not isinstance(step, str) or not step.strip():
            raise BrokenRow(f"step {number} must be a filled text, but is {shown(step)}")
    if len(steps) != len(labels):
        raise BrokenRow(f"there are {len(steps)} steps, but {len(labels)} labels")
    if all(label is None for label in labels):
        raise BrokenRow("no step has a label")
    return [*steps], [*labels]


def as_label(value: Any, name: str) -> float | None:
    """A label in [0, 1]; true is 1, false is 0, null is None."""
    if value is None or isinstance(value, bool):
        return None if value is None else float(value)
    number = as_number(value, name)
    if not 0 <= number <= 1:
        raise BrokenRow(f"{name} must be true, false or in [0, 1], but is {shown(value)}")
    return number
