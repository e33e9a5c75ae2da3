"""Problems and conversations from a table with named columns."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lit_posttrain.batches import Problem
from lit_posttrain.contracts import ProblemSource
from lit_posttrain.data.formats import Chat, Layout, prompt_only, question_answer, recognise, to_chat
from lit_posttrain.data.sources.rows import Row, columns_of, read_splits
from lit_posttrain.data.sources.splitting import check_share, check_split, digest, split_of
from lit_posttrain.errors import InputError


@dataclass(frozen=True)
class Entry:
    """A row as a conversation; `answer` is None where the layout has none. `key` decides its split."""

    number: int
    row: Row
    prompt: Chat
    answer: dict[str, str] | None

    @property
    def key(self) -> str:
        """The prompt as canonical text."""
        return json.dumps(self.prompt, sort_keys=True)


@dataclass(frozen=True)
class Table(ProblemSource):
    """Rows of JSON lines or Parquet files, or of a hub data set.

    A split that the data does not have is held out of its training split by a hash of the prompt, so that a
    prompt that occurs twice is not in two of them. Splits that the data comes with are taken as they are.

    Args:
        path: A file (the training split), a folder with a file per split, or a hub name.
        prompt: Column of the prompt, a text or a list of messages. Without it the layout is recognised by the
            columns: `messages`, `prompt` and `completion`, or `instruction`, `input` and `output`.
        completion: Column of the worked answer, for supervised training; needs `prompt`.
        reference: Column that graders read; without it, the text of the worked answer.
        configuration: Configuration of a hub data set.
        held_out_share: Share of the training rows that goes to each split that the data does not have.
    """

    path: str
    prompt: str | None = None
    completion: str | None = None
    reference: str | None = None
    configuration: str | None = None
    held_out_share: float = 0.05

    def __post_init__(self) -> None:
        check_share(self.held_out_share)
        if self.completion is not None and self.prompt is None:
            raise InputError(f"completion={self.completion!r} needs the column of the prompt too; set prompt")

    def problems(self, split: str) -> list[Problem]:
        """The prompts of the split; uid is a hash of the prompt, with a number where it occurs again."""
        seen: Counter[str] = Counter()
        return [self._problem(entry, seen) for entry in self._entries(split)]

    def chats(self, split: str) -> list[Chat]:
        """The conversations of the split, each ending in its worked answer."""
        if self.prompt is not None and self.completion is None:
            raise InputError(
                f"{self.path} has no worked answers to train on; name their column as completion"
            )
        return [[*entry.prompt, entry.answer] for entry in self._entries(split) if entry.answer is not None]

    def _entries(self, split: str) -> list[Entry]:
        check_split(split)
        splits = read_splits(self.path, self.configuration)
        origin = split if split in splits else "train"
        if origin not in splits:
            raise InputError(f"{self.path} has no rows for split {split!r}; it has {', '.join(splits)}")
        layout = self._layout(columns_of(splits[origin]))
        name = f"{self.path} ({origin})"
        entries = [_entry(row, layout, number, name) for number, row in enumerate(splits[origin])]
        if origin == "train":
            entries = [entry for entry in entries if self._split(entry, splits) == split]
        if not entries:
            raise InputError(
                f"no row of {name} falls into split {split!r}; raise held_out_share "
                f"(now {self.held_out_share}), or give the split its own file"
            )
        return entries

    def _layout(self, columns: Sequence[str]) -> Layout:
        named = [self.prompt, self.completion, self.reference]
        unknown = [column for column in named if column is not None and column not in columns]
        if unknown:
            raise InputError(f"{self.path} has no column {', '.join(unknown)}; it has {', '.join(columns)}")
        if self.prompt is None:
            return recognise(columns, name=self.path)
        if self.completion is None:
            return prompt_only(self.prompt)
        return question_answer(self.prompt, self.completion)

    def _split(self, entry: Entry, splits: Mapping[str, Sequence[Row]]) -> str:
        """Where a training row goes: a split that has its own rows takes none."""
        split = split_of(entry.key, self.held_out_share)
        return "train" if split in splits else split

    def _problem(self, entry: Entry, seen: Counter[str]) -> Problem:
        reference = entry.answer["content"] if entry.answer else None
        if self.reference is not None:
            reference = entry.row.get(self.reference)
        if reference is None:
            raise InputError(
                f"row {entry.number} of {self.path} has nothing to grade by; set reference to a column"
            )
        uid = digest(entry.key)
        seen[uid] += 1
        return Problem(
            tuple(entry.prompt), reference, uid if seen[uid] == 1 else f"{uid}#{seen[uid]}", self.path
        )


def _entry(row: Row, layout: Layout, number: int, name: str) -> Entry:
    chat = to_chat(row, layout, number, name=name)
    return Entry(number, row, chat[:-1], chat[-1]) if layout.answered else Entry(number, row, chat, None)
