"""What a row says once it is read: one frozen type for each kind of training data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]
Chat = list[Message]
Tools = list[dict[str, Any]]
RawRow = Mapping[str, Any]


class BrokenRow(ValueError):
    """A row that its layout cannot read; the message says why."""


@dataclass(frozen=True)
class Unreadable:
    """What stands where a row should be: no JSON, no UTF-8, no object. `text` is its beginning."""

    reason: str
    text: str = ""


@dataclass(frozen=True)
class TextRow:
    """A plain text, every token of which is learned."""

    text: str


@dataclass(frozen=True)
class Conversation:
    """Messages that end in an assistant's answer.

    A message is a dictionary with `role` and `content` (a text, empty beside `tool_calls`), and where the data
    has them `tool_calls`, `tool_call_id`, `name`, `thinking`, `reasoning_content` and `weight`. `tools` are
    JSON schemas of functions, for the chat template.
    """

    messages: Chat
    tools: Tools | None = None

    @property
    def message_weights(self) -> list[float] | None:
        """What each message's `weight` says, 1 where it has none; None where no message has one."""
        if not any("weight" in message for message in self.messages):
            return None
        return [float(message.get("weight", 1.0)) for message in self.messages]


@dataclass(frozen=True)
class PromptRow:
    """A prompt without an answer; `reference` is what graders read, where the source knows it."""

    messages: Chat
    tools: Tools | None = None
    reference: Any = None


@dataclass(frozen=True)
class PreferenceRow:
    """Two continuations of a prompt, the better one first; each begins with an assistant's message.

    `margin` is by how much it is better, in the unit of the data; None where the data does not say. `weight` is how
    much the pair counts beside others.
    """

    prompt: Chat
    chosen: Chat
    rejected: Chat
    margin: float | None = None
    tools: Tools | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class UnpairedRow:
    """One continuation of a prompt, and whether it is wanted."""

    prompt: Chat
    completion: Chat
    desirable: bool
    tools: Tools | None = None


@dataclass(frozen=True)
class RankedRow:
    """Several continuations of a prompt, each with a target: a grade, of which higher is better."""

    prompt: Chat
    completions: list[Chat]
    targets: list[float]
    tools: Tools | None = None


@dataclass(frozen=True)
class StepwiseRow:
    """A solution in steps. A label is in [0, 1], how right its step is, or None: nothing is known of it.

    One step with several labels is a whole solution, which is still to be cut into as many steps.
    """

    prompt: Chat
    steps: list[str]
    labels: list[float | None]


Row = TextRow | Conversation | PromptRow | PreferenceRow | UnpairedRow | RankedRow | StepwiseRow


def shown(value: Any, length: int = 80) -> str:
    """A value for a message, cut to `length` characters."""
    if isinstance(value, Sequence):
        value = value[: length + 1]
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."
