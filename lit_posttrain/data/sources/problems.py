"""Problems of a table: the prompts of its rows, and what graders read."""

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from lit_posttrain.batches import Problem
from lit_posttrain.data.formats import (
    Chat,
    Conversation,
    PromptRow,
    Row,
    StepwiseRow,
    TextRow,
    Tools,
)
from lit_posttrain.data.sources.splitting import digest
from lit_posttrain.errors import InputError


def problems_of(rows: Iterable[tuple[int, Row, Any]], name: str) -> list[Problem]:
    """The prompts as problems; uid is a hash of the prompt, with a number where it occurs again.

    Args:
        rows: Number of each row, what it says, and its reference; None where that is the worked answer.
        name: The table.

    Raises:
        InputError: for texts without prompts, prompts with tools, or rows without anything to grade by.
    """
    seen: Counter[str] = Counter()
    problems = []
    for number, row, reference in rows:
        prompt = _prompt(row, number, name)
        if reference is None and isinstance(row, Conversation):
            reference = row.messages[-1]["content"]
        if reference is None:
            raise InputError(f"row {number} of {name} has nothing to grade by; set reference to a column")
        uid = digest(key_of(row))
        seen[uid] += 1
        uid = uid if seen[uid] == 1 else f"{uid}#{seen[uid]}"
        problems.append(Problem(tuple(prompt), reference, uid, name))
    return problems


def key_of(row: Row) -> str:
    """What decides the split of a row: its prompt as canonical text, or its text."""
    return row.text if isinstance(row, TextRow) else json.dumps(prompt_of(row), sort_keys=True)


def prompt_of(row: Row) -> Chat | None:
    """The messages up to the answer; None for a text, which has no prompt."""
    if isinstance(row, Conversation):
        return row.messages[:-1]
    if isinstance(row, TextRow):
        return None
    return row.messages if isinstance(row, PromptRow) else row.prompt


def tools_of(row: Row) -> Tools | None:
    """The tools that the row names."""
    return None if isinstance(row, TextRow | StepwiseRow) else row.tools


def _prompt(row: Row, number: int, name: str) -> Chat:
    prompt = prompt_of(row)
    if prompt is None:
        raise InputError(f"{name} holds texts without prompts; name the column of the prompt as prompt")
    if tools_of(row):
        raise InputError(
            f"row {number} of {name} names tools, which no rollout offers yet; remove the column tools"
        )
    return prompt
