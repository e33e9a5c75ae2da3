"""Column layouts, each turned into a conversation whose last message is the answer."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_posttrain.errors import InputError

Chat = list[dict[str, str]]
ROLES = ("system", "user", "assistant", "tool")


class BrokenRow(ValueError):
    """A row that its layout cannot turn into a conversation; the message says why."""


@dataclass(frozen=True)
class Layout:
    """A way to write a conversation into columns.

    Args:
        name: What people call it.
        columns: The columns it needs.
        chat: Turns a row into a conversation; raises `BrokenRow`.
        answered: Whether the conversation ends in the answer, or is a prompt alone.
    """

    name: str
    columns: tuple[str, ...]
    chat: Callable[[Mapping[str, Any]], Chat]
    answered: bool = True


def to_chats(rows: Iterable[Mapping[str, Any]], layout: Layout, *, name: str = "data") -> list[Chat]:
    """The conversation of every row.

    Raises:
        InputError: with the number of the first row (from 0) that does not end as the layout says.
    """
    return [to_chat(row, layout, number, name=name) for number, row in enumerate(rows)]


def to_chat(row: Mapping[str, Any], layout: Layout, number: int, *, name: str = "data") -> Chat:
    """The conversation of row `number`.

    Raises:
        InputError: if it is no conversation that ends as the layout says.
    """
    try:
        chat = layout.chat(row)
        return _ending_in_answer(chat) if layout.answered else _ending_in_question(chat)
    except BrokenRow as error:
        raise InputError(
            f"row {number} of {name} (layout {layout.name}): {error}; repair or remove the row"
        ) from error


def recognise(columns: Sequence[str], *, name: str = "data") -> Layout:
    """The layout that the columns show.

    Raises:
        InputError: if they show none or several; the columns that are there are named.
    """
    found = [layout for layout in LAYOUTS if set(layout.columns) <= set(columns)]
    if len(found) == 1:
        return found[0]
    known = "; ".join(f"{layout.name}: {', '.join(layout.columns)}" for layout in found or LAYOUTS)
    problem = "more than one layout" if found else "no layout that is known"
    raise InputError(
        f"the columns {list(columns)} of {name} show {problem} ({known}); name the columns to read"
    )


def question_answer(question: str, answer: str) -> Layout:
    """The layout of two named columns, each a text or a list of messages."""
    return Layout("question/answer", (question, answer), lambda row: _joined(row, question, answer))


def prompt_only(prompt: str) -> Layout:
    """The layout of one named column, a text or a list of messages, without answers."""
    return Layout(
        "prompt", (prompt,), lambda row: as_messages(_cell(row, prompt), prompt, "user"), answered=False
    )


def as_messages(value: Any, column: str, role: str) -> Chat:
    """A cell as messages: a text becomes one message of `role`.

    Raises:
        BrokenRow: if it is neither a text nor a list of messages with role and content.
    """
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, Sequence) or not value:
        raise BrokenRow(f"{column} must be a text or a list of messages, but is {_shown(value)}")
    return [_message(message, column) for message in value]


def _message(message: Any, column: str) -> dict[str, str]:
    fields = message if isinstance(message, Mapping) else {}
    role, content = fields.get("role"), fields.get("content")
    if role not in ROLES or not isinstance(content, str):
        raise BrokenRow(
            f"{column} holds {_shown(message)}; a message has a role ({', '.join(ROLES)}) and a text, content"
        )
    return {"role": role, "content": content}


def _ending_in_answer(chat: Chat) -> Chat:
    if len(chat) < 2 or chat[-1]["role"] != "assistant":
        raise BrokenRow(
            f"the roles must end in an answer after a prompt, but are {[m['role'] for m in chat]}"
        )
    if not chat[-1]["content"].strip():
        raise BrokenRow("the answer is empty")
    return chat


def _ending_in_question(chat: Chat) -> Chat:
    if chat[-1]["role"] == "assistant":
        raise BrokenRow("the prompt ends in an answer already; name its column as completion, or remove it")
    return chat


def _cell(row: Mapping[str, Any], column: str) -> Any:
    if row.get(column) is None:
        raise BrokenRow(f"{column} is missing")
    return row[column]


def _joined(row: Mapping[str, Any], prompt: str, completion: str) -> Chat:
    asked = as_messages(_cell(row, prompt), prompt, "user")
    return asked + as_messages(_cell(row, completion), completion, "assistant")


def _messages(row: Mapping[str, Any]) -> Chat:
    value = _cell(row, "messages")
    if isinstance(value, str):
        raise BrokenRow(f"messages must be a list of messages, but is the text {_shown(value)}")
    return as_messages(value, "messages", "user")


def _alpaca(row: Mapping[str, Any]) -> Chat:
    instruction, given, output = _cell(row, "instruction"), row.get("input") or "", _cell(row, "output")
    if not all(isinstance(text, str) for text in (instruction, given, output)):
        raise BrokenRow("instruction, input and output must be texts")
    asked = f"{instruction}\n\n{given}" if given.strip() else instruction
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": output}]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


LAYOUTS = (
    Layout("messages", ("messages",), _messages),
    Layout("prompt/completion", ("prompt", "completion"), lambda row: _joined(row, "prompt", "completion")),
    Layout("alpaca", ("instruction", "output"), _alpaca),
)
