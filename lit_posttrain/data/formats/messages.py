"""Messages of a conversation: their fields, and the order in which roles may speak."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lit_posttrain.data.formats.cells import Cells, as_number
from lit_posttrain.data.formats.row_types import BrokenRow, Chat, Message, Tools, shown

ROLES = ("system", "developer", "user", "assistant", "tool")
FIELDS = (
    "role",
    "content",
    "name",
    "tool_calls",
    "tool_call_id",
    "thinking",
    "reasoning_content",
    "weight",
)
FOLLOWERS = {
    "the beginning": ("system", "developer", "user"),
    "system": ("developer", "user"),
    "developer": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}


def as_messages(cells: Cells, name: str, role: str) -> Chat:
    """A cell as messages: a text becomes one message of `role`.

    Raises:
        BrokenRow: if it is neither a text nor a list of messages with role and content.
    """
    value = cells.said(name)
    if isinstance(value, str):
        return [{"role": role, "content": str(value)}]
    if not isinstance(value, Sequence) or not value:
        raise BrokenRow(f"{cells.column(name)} must be a text or a list of messages, but is {shown(value)}")
    return [as_message(message, cells.column(name)) for message in value]


def as_message(message: Any, column: str) -> Message:
    """A message with the fields that a template may read; those that are null are left out.

    Raises:
        BrokenRow: for an unknown role, a content that is no text, or fields of a wrong type.
    """
    fields = message if isinstance(message, Mapping) else {}
    kept = {name: fields[name] for name in FIELDS if fields.get(name) is not None}
    if kept.get("tool_calls") == []:
        del kept["tool_calls"]
    if kept.get("role") == "assistant" and kept.get("tool_calls"):
        kept = {"role": "assistant", "content": "", **kept}
    if kept.get("role") not in ROLES or not isinstance(kept.get("content"), str):
        raise BrokenRow(
            f"{column} holds {shown(message)}; a message has a role ({', '.join(ROLES)}) and a text, content"
        )
    if "tool_calls" in kept:
        kept["tool_calls"] = _dictionaries(kept["tool_calls"], f"tool_calls in {column}")
    if "weight" in kept and as_number(kept["weight"], f"a weight in {column}") < 0:
        raise BrokenRow(f"a weight in {column} must not be negative, but is {kept['weight']}")
    return kept


def as_tools(cells: Cells) -> Tools | None:
    """The JSON schemas of the row's tools, from a list or a JSON text; None where there are none."""
    value = cells.decoded("tools") if cells.has("tools") else None
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except ValueError as error:
            raise BrokenRow(f"{cells.column('tools')} is a text, but no JSON: {shown(value)}") from error
    return _dictionaries(value, cells.column("tools")) if value else None


def check_order(chat: Chat) -> Chat:
    """The messages, if the roles may follow each other so and none but a tool's is empty.

    Raises:
        BrokenRow: naming the first message that is out of place.
    """
    before = "the beginning"
    for number, message in enumerate(chat):
        role = message["role"]
        if role not in FOLLOWERS[before]:
            allowed = " or ".join(FOLLOWERS[before])
            raise BrokenRow(
                f"message {number} is of role {role}, but after {before} comes {allowed}; "
                f"the roles are {shown([m['role'] for m in chat])}"
            )
        if role in ("user", "assistant") and not message.get("tool_calls") and not message["content"].strip():
            where = "the answer" if number == len(chat) - 1 else f"message {number} ({role})"
            raise BrokenRow(f"{where} is empty")
        before = role
    return chat


def ending_in_answer(chat: Chat) -> Chat:
    """The messages, if they are in order and end in an answer after a prompt."""
    if len(chat) < 2 or chat[-1]["role"] != "assistant":
        roles = shown([message["role"] for message in chat])
        raise BrokenRow(f"the roles must end in an answer after a prompt, but are {roles}")
    return check_order(chat)


def ending_in_question(chat: Chat) -> Chat:
    """The messages, if they are in order and an answer comes next."""
    if chat[-1]["role"] == "assistant":
        raise BrokenRow("the prompt ends in an answer already; name its column as completion, or remove it")
    if chat[-1]["role"] not in ("user", "tool"):
        raise BrokenRow(f"the prompt asks nothing: its last message is of role {chat[-1]['role']}")
    if chat[-1]["role"] == "user" and not chat[-1]["content"].strip():
        raise BrokenRow("the prompt is empty")
    return check_order(chat)


def continuation(prompt: Chat, answer: Chat, column: str) -> Chat:
    """The answer, if prompt and answer are a conversation in order; `column` is where the answer stands."""
    if answer[0]["role"] != "assistant":
        raise BrokenRow(f"{column} must begin with the assistant, but begins with {answer[0]['role']}")
    return ending_in_answer(prompt + answer)[len(prompt) :]


def _dictionaries(value: Any, name: str) -> Tools:
    items = [] if isinstance(value, str) or not isinstance(value, Sequence) else [*value]
    if not items or not all(isinstance(item, Mapping) for item in items):
        raise BrokenRow(f"{name} must be a list of objects, but is {shown(value)}")
    return [dict(item) for item in items]
