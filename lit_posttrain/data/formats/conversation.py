"""Layouts of texts, prompts and conversations."""

import json
from collections.abc import Mapping
from typing import Any

from lit_posttrain.data.formats.cells import Cells
from lit_posttrain.data.formats.messages import (
    as_messages,
    as_tools,
    continuation,
    ending_in_answer,
    ending_in_question,
)
from lit_posttrain.data.formats.row_types import (
    BrokenRow,
    Chat,
    Conversation,
    Message,
    PromptRow,
    TextRow,
    shown,
)

SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}


def text(cells: Cells) -> TextRow:
    """`text`: a plain text."""
    return TextRow(cells.filled_text("text"))


def messages(cells: Cells) -> Conversation:
    """`messages`: the whole conversation."""
    if isinstance(cells.said("messages"), str):
        column, value = cells.column("messages"), shown(cells.value("messages"))
        raise BrokenRow(f"{column} must be a list of messages, but is the text {value}")
    return Conversation(ending_in_answer(as_messages(cells, "messages", "user")), as_tools(cells))


def prompt(cells: Cells) -> PromptRow:
    """`prompt`: a text, which the user says, or messages."""
    return PromptRow(ending_in_question(as_messages(cells, "prompt", "user")), as_tools(cells))


def prompt_completion(cells: Cells) -> Conversation:
    """`prompt` and `completion`: each a text or messages."""
    asked = ending_in_question(as_messages(cells, "prompt", "user"))
    answer = as_messages(cells, "completion", "assistant")
    return Conversation(asked + continuation(asked, answer, cells.column("completion")), as_tools(cells))


def alpaca(cells: Cells) -> Conversation:
    """`instruction`, `input` (may be empty or missing), `output`, and `system` where there is one.

    The user says the instruction and, after an empty line, the input.
    """
    instruction = cells.filled_text("instruction")
    given = cells.text("input") if cells.has("input") else ""
    asked = f"{instruction}\n\n{given}" if given.strip() else instruction
    answer = {"role": "assistant", "content": cells.text("output")}
    return Conversation(ending_in_answer([*_system(cells), {"role": "user", "content": asked}, answer]))


def sharegpt(cells: Cells) -> Conversation:
    """`conversations`: a list of `from` and `value`; `system` and `tools` where there are any.

    A `function_call` is an assistant's tool call: its value is JSON with `name` and `arguments`.
    """
    said = [_said(message, cells.column("conversations")) for message in cells.list("conversations")]
    return Conversation(ending_in_answer([*_system(cells), *said]), as_tools(cells))


def _system(cells: Cells) -> Chat:
    system = cells.text("system") if cells.has("system") else ""
    return [{"role": "system", "content": system}] if system.strip() else []


def _said(message: Any, column: str) -> Message:
    fields = message if isinstance(message, Mapping) else {}
    speaker, value = fields.get("from"), fields.get("value")
    if speaker == "function_call":
        return {"role": "assistant", "content": "", "tool_calls": [_call(value, column)]}
    if speaker not in SPEAKERS or not isinstance(value, str):
        known = ", ".join([*SPEAKERS, "function_call"])
        raise BrokenRow(f"{column} holds {shown(message)}; a message has from ({known}) and a text, value")
    weight = {} if fields.get("weight") is None else {"weight": fields["weight"]}
    return {"role": SPEAKERS[speaker], "content": value, **weight}


def _call(value: Any, column: str) -> dict[str, Any]:
    try:
        call = json.loads(value)
        return {"type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
    except (ValueError, TypeError, KeyError) as error:
        raise BrokenRow(
            f"{column} holds the function call {shown(value)}, which is no JSON with name and arguments"
        ) from error
