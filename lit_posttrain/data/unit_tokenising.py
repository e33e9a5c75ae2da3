"""Rows of preferences, verdicts, steps and rankings to units of tokens."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from lit_posttrain.chat_template import is_empty
from lit_posttrain.contracts import ProblemSource
from lit_posttrain.data.chunks import Chunk
from lit_posttrain.data.formats import Chat, PreferenceRow, RankedRow, Tools, UnpairedRow
from lit_posttrain.data.unit_limit import UnitLimit
from lit_posttrain.data.units import Member, Unit, as_unit_chunk
from lit_posttrain.errors import InputError
from lit_posttrain.loss_mask import LossOn
from lit_posttrain.text import ON_COMPLETION, ChatText

EVERY_ANSWER = LossOn("assistant")


@runtime_checkable
class RowSource(Protocol):
    """A source that has rows of other kinds than conversations."""

    def rows(self, split: str) -> Iterable[Any]:
        """The rows of a split, in a fixed order."""
        ...


Reading = Callable[[Any, ChatText], list[Unit]]
"""The units that a row becomes; a frozen dataclass, as its settings are part of a table's fingerprint."""


@dataclass(frozen=True)
class UnitTokenising:
    """What becomes of rows, a chunk at a time.

    Args:
        text: Tokenizer and template.
        reading: What a row says.
        limit: The longest sequence allowed.
    """

    text: ChatText
    reading: Reading
    limit: UnitLimit

    @property
    def settings(self) -> str:
        """What the tokens depend on beside the tokenizer and the length limit."""
        return repr(self.reading)

    def named(self, name: str) -> "UnitTokenising":
        """The same for data of this name."""
        return replace(self, limit=replace(self.limit, name=name))

    def rows(self, source: ProblemSource, split: str) -> Iterable[Any]:
        """The rows of a source.

        Raises:
            InputError: if it has conversations or problems only.
        """
        if not isinstance(source, RowSource):
            raise InputError(
                f"{type(source).__name__} has no rows of preferences, verdicts, steps or rankings; use a Table, or a "
                "source with a method rows(split)"
            )
        return source.rows(split)

    def __call__(self, first: int, rows: list[Any]) -> Chunk:
        """A chunk of rows, of which the first has number `first`.

        Raises:
            InputError: with the number of a row that cannot be tokenised.
        """
        came, kept = [], []
        for number, row in enumerate(rows, first):
            for unit in self._units(number, row):
                came.append(max(map(len, unit)))
                fitted = self.limit.fitted_unit(unit)
                if fitted is not None:
                    kept.append(fitted)
        return as_unit_chunk(kept, came)

    def _units(self, number: int, row: Any) -> list[Unit]:
        try:
            return self.reading(row, self.text)
        except InputError as error:
            raise InputError(f"row {number} of {self.limit.name!r}: {error}") from error


@dataclass(frozen=True)
class Pairs:
    """Reads preferences: chosen, with the margin as its value, and rejected, with the weight of the pair."""

    def __call__(self, row: Any, text: ChatText) -> list[Unit]:
        """One unit of two sequences."""
        check_kind(row, (PreferenceRow,), "PreferenceData")
        margin = 0.0 if row.margin is None else row.margin
        pair = [
            answered(text, row.prompt, answer, row.tools, name, value)
            for name, answer, value in (
                ("chosen", row.chosen, margin),
                ("rejected", row.rejected, row.weight),
            )
        ]
        if pair[0].ids.tobytes() == pair[1].ids.tobytes():
            raise InputError(
                f"chosen and rejected are the same ({_text(row.chosen)!r}), so there is nothing to prefer; remove it"
            )
        return [pair]


@dataclass(frozen=True)
class Verdicts:
    """Reads completions that are wanted (value 1) or not (0); both sides of a preference are one each."""

    def __call__(self, row: Any, text: ChatText) -> list[Unit]:
        """A unit of one sequence for each completion."""
        check_kind(row, (UnpairedRow, PreferenceRow), "UnpairedData")
        if isinstance(row, UnpairedRow):
            sides = [("completion", row.completion, float(row.desirable))]
        else:
            sides = [("chosen", row.chosen, 1.0), ("rejected", row.rejected, 0.0)]
        return [[answered(text, row.prompt, answer, row.tools, name, value)] for name, answer, value in sides]


@dataclass(frozen=True)
class Ranking:
    """Reads completions of a prompt with a target each."""

    def __call__(self, row: Any, text: ChatText) -> list[Unit]:
        """One unit of all of them."""
        check_kind(row, (RankedRow,), "RankedData")
        answers = enumerate(zip(row.completions, row.targets, strict=True))
        return [
            [
                answered(text, row.prompt, answer, row.tools, f"completion {i}", target)
                for i, (answer, target) in answers
            ]
        ]


def answered(
    text: ChatText, prompt: Chat, answer: Chat, tools: Tools | None, name: str, value: float
) -> Member:
    """A prompt and its answer, which may go over several turns; what counts are the assistant's messages of it.

    Raises:
        InputError: if the answer is empty or weighs its messages, or cannot be tokenised.
    """
    if not answer or any(message["role"] == "assistant" and is_empty(message) for message in answer):
        raise InputError(f"{name} is empty; remove the row")
    several = len(answer) > 1
    example = text.example(
        [*prompt, *answer],
        tools=tools,
        loss=EVERY_ANSWER if several else ON_COMPLETION,
        weights=[0.0] * len(prompt) + [1.0] * len(answer) if several else None,
    )
    if example.scale is not None:
        raise InputError(f"the messages of {name} have weights, which preferences do not use; remove them")
    return Member.of(example.ids, example.mask, value)


def check_kind(row: Any, kinds: tuple[type, ...], name: str) -> None:
    """
    Raises:
        InputError: for a row of a kind that this data is not made of.
    """
    if not isinstance(row, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(
            f"{name} learns from rows of the type {wanted}, but this is a {type(row).__name__}; choose the data "
            "module that fits, or set the layout of the source"
        )


def _text(answer: Sequence[Any]) -> str:
    return str(answer[0].get("content", ""))[:80]
