"""Chat templates: messages to text, and a check that the text holds what the messages say."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from lit_posttrain.errors import InputError

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]
Span = tuple[int, int]

MARKERS = re.compile(r"\{%-?\s*generation\s*-?%\}")
REASONING = (
    "reasoning_content",
    "reasoning",
    "thinking",
)  # what templates call the thoughts before an answer


class ChatTemplate:
    """A Jinja chat template, as transformers renders it.

    Args:
        source: The Jinja string; None writes the messages' contents one after the other.
        special_tokens: What the template may call `bos_token`, `eos_token` and so on.
    """

    def __init__(self, source: str | None, special_tokens: Mapping[str, str]) -> None:
        self.source, self.special_tokens = source, dict(special_tokens)

    @cached_property
    def has_markers(self) -> bool:
        """Whether it says itself what the assistant writes, by `{% generation %}`."""
        return MARKERS.search(self.source or "") is not None

    @cached_property
    def header(self) -> str:
        """What invites an answer, such as `<|im_start|>assistant`; empty where the template writes nothing."""
        asked = [{"role": "user", "content": "a"}]
        before, invited = self.render(asked), self.render(asked, answer_next=True)
        return invited[len(before) :] if invited.startswith(before) else ""

    def render(self, messages: Messages, tools: Tools | None = None, *, answer_next: bool = False) -> str:
        """The text of `messages`; with `answer_next` up to where the assistant's answer begins.

        Raises:
            InputError: if the template refuses them.
        """
        return self._text(messages, tools, answer_next, mark=False)[0]

    def marked(self, messages: Messages, tools: Tools | None = None) -> tuple[str, list[Span]]:
        """The text of `messages` and what stands between the template's generation markers, from-to in it.

        Raises:
            InputError: as `render`.
        """
        return self._text(messages, tools, False, mark=True)

    def _text(
        self, messages: Messages, tools: Tools | None, answer_next: bool, *, mark: bool
    ) -> tuple[str, list[Span]]:
        chat = [_plain(message) for message in messages]
        if self.source is None:
            return "".join(map(_content, chat)), []
        arguments: dict[str, Any] = dict(self.special_tokens)
        try:
            texts, spans = render_jinja_template(  # type: ignore[misc]  # annotated as returning a str
                conversations=[chat],  # type: ignore[arg-type]
                tools=[dict(tool) for tool in tools if _name(tool)] if tools else None,
                chat_template=self.source,
                add_generation_prompt=answer_next,
                return_assistant_tokens_mask=mark,
                **arguments,
            )
        except (TemplateError, TypeError) as error:
            raise InputError(
                f"the chat template refuses the roles {[m.get('role') for m in chat]}: {error}; "
                "change the messages, or set template to another Jinja string or 'plain'"
            ) from error
        return texts[0], list(spans[0]) if mark else []  # type: ignore[arg-type]


def with_arguments(source: str | None, arguments: Mapping[str, Any]) -> str | None:
    """A template that takes these values for names that it is not told otherwise.

    Raises:
        InputError: if a name does not occur in the template, or a value is no plain JSON.
    """
    unused = [name for name in arguments if not re.search(rf"\b{re.escape(name)}\b", source or "")]
    if unused:
        raise InputError(
            f"the chat template does not use {', '.join(map(repr, unused))}; take it out of template_arguments"
        )
    told = "".join(
        f"{{%- if {name} is not defined %}}{{%- set {name} = {_literal(name, value)} %}}{{%- endif %}}"
        for name, value in arguments.items()
    )
    return f'{told}{{{{ "" }}}}{source}' if told else source  # without "" a line break that follows would go


def _literal(name: str, value: Any) -> str:
    """A JSON value as Jinja writes it: as JSON does, but for none."""
    if value is None:
        return "none"
    if isinstance(value, list):
        return f"[{', '.join(_literal(name, one) for one in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_literal(name, k)}: {_literal(name, v)}' for k, v in value.items())}}}"
    if isinstance(value, bool | int | float | str):
        return json.dumps(value)
    raise InputError(f"template_arguments.{name} must be plain JSON; got {value!r}, a {type(value).__name__}")


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as templates expect it: without our `weight`, and without fields that a table filled with None."""
    return {k: v for k, v in message.items() if k != "weight" and (v is not None or k == "content")}


def _content(message: Mapping[str, Any]) -> str:
    """The content for the template `plain`, which can write nothing else."""
    content = message.get("content")
    if not isinstance(content, str) or message.get("tool_calls"):
        raise InputError(
            f"the template 'plain' writes contents that are texts, but a message of role {message.get('role')!r} has "
            f"{'tool calls' if message.get('tool_calls') else type(content).__name__}; set template to a Jinja string"
        )
    return content


def check_tools(tools: Tools | None, text: str) -> None:
    """That the template has shown the model each of `tools`, by name.

    Raises:
        InputError: if one is not in `text`, or is no JSON schema.
    """
    for name in map(_name, tools or ()):
        if name not in text:
            raise InputError(
                f"the chat template does not show the model the tool {name!r}; set template to one that does, or "
                "remove the tools from the row"
            )


def is_empty(message: Mapping[str, Any]) -> bool:
    """Whether a message says nothing: no content, no reasoning and no tool call."""
    content = message.get("content")
    said = content.strip() if isinstance(content, str) else content
    return not (said or message.get("tool_calls") or any(message.get(name) for name in REASONING))


def check_written(message: Mapping[str, Any], text: str, *, fully: bool) -> None:
    """That the template has written what `message` says into `text`; blanks may differ.

    An assistant's content and reasoning are asked for only with `fully`: of earlier turns templates leave out some.

    Raises:
        InputError: if the content, a tool call or the reasoning is not in `text`.
    """
    content, role = message.get("content"), message.get("role")
    said = [content] if isinstance(content, str) and (fully or role != "assistant") else []
    said += [message[name] for name in REASONING if fully and isinstance(message.get(name), str)]
    calls = message.get("tool_calls") or []
    said += [str(call.get("function", call).get("name", "")) for call in calls if isinstance(call, Mapping)]
    for part in said:
        if part not in text and not _in_other_words(part, text):
            raise InputError(
                f"the chat template leaves out {_shown(part)} of the {role} message, such as a role, a field or a "
                "reasoning that it does not know, so it would be dropped in silence; set template to one that "
                "writes it, or change the messages"
            )


def _in_other_words(part: str, text: str) -> bool:
    """Whether `text` holds `part` with other blanks, or as a JSON string."""
    squeezed = "".join(text.split())
    return any(
        "".join(form.split()) in squeezed for form in (part, json.dumps(part, ensure_ascii=False)[1:-1])
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _name(tool: Mapping[str, Any]) -> str:
    """What a tool is called."""
    function = tool.get("function", tool) if isinstance(tool, Mapping) else {}
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise InputError(f"a tool is a JSON schema with a name, but one is {_shown(repr(tool))}")
    return name
