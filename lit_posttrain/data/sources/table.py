"""Training rows, problems and conversations from a table in any layout of the field."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lit_posttrain.batches import Problem
from lit_posttrain.contracts import ProblemSource
from lit_posttrain.data.formats import (
    BrokenRow,
    Layout,
    LayoutName,
    PromptRow,
    Row,
    Unreadable,
)
from lit_posttrain.data.formats.choice import check_columns, choose
from lit_posttrain.data.formats.supervised import check_supervised, learned
from lit_posttrain.data.quarantine import Quarantine, QuarantineSettings
from lit_posttrain.data.sources import reports
from lit_posttrain.data.sources.problems import key_of, problems_of
from lit_posttrain.data.sources.raw_rows import Raw, RawRows
from lit_posttrain.data.sources.reports import say
from lit_posttrain.data.sources.rows import read_splits, stamp_of
from lit_posttrain.data.sources.splitting import check_share, check_split, digest, split_of
from lit_posttrain.data.sources.survey import Picked, Survey, survey
from lit_posttrain.errors import InputError

FIRST_ROWS = 100


@dataclass(frozen=True)
class Table(ProblemSource):
    """Rows of local files (JSON lines, JSON, Parquet, CSV), of a folder that `datasets` saved, or of the hub.

    The layout is recognised by columns and first rows, and printed with what is not read. Broken rows are
    listed in a file and left out. A split that the data does not have is held out of its training split by a
    hash of the prompt, so that a prompt that occurs twice is not in two of them. Splits that the data comes
    with are taken as they are.

    Args:
        path: A file (the training split), a folder with a file per split, or a hub name.
        prompt: Column of the prompt, a text or a list of messages. Without it the layout is recognised.
        completion: Column of the worked answer, for supervised training; needs `prompt`.
        reference: Column that graders read; without it, the text of the worked answer.
        configuration: Configuration of a hub data set.
        held_out_share: Share of the training rows that goes to each split that the data does not have.
        layout: The layout, where it is not to be recognised.
        columns: The table's own names of a layout's columns, such as `{text: article}`.
        neutral: For `prm800k`, the label of a step that was rated neutral; null gives it none.
        learn_chosen: Supervised training on preference rows learns the chosen answers.
        quarantine: What becomes of broken rows.
    """

    path: str
    prompt: str | None = None
    completion: str | None = None
    reference: str | None = None
    configuration: str | None = None
    held_out_share: float = 0.05
    layout: LayoutName | None = None
    columns: dict[str, str] | None = None
    neutral: float | None = 1.0
    learn_chosen: bool = False
    quarantine: QuarantineSettings = field(default_factory=QuarantineSettings)

    def __post_init__(self) -> None:
        check_share(self.held_out_share)
        if self.completion is not None and self.prompt is None:
            raise InputError(f"completion={self.completion!r} needs the column of the prompt too; set prompt")
        if self.neutral is not None and not 0 <= self.neutral <= 1:
            raise InputError(f"neutral is a label in [0, 1], or null for none; got {self.neutral}")

    def rows(self, split: str) -> Sequence[Row]:
        """The rows of the split, of the type that the layout says; each is read when it is asked for."""
        found = self._survey(split)
        return Picked(found.raw, self._numbers(found, split), found.read)

    def problems(self, split: str) -> list[Problem]:
        """The prompts of the split; uid is a hash of the prompt, with a number where it occurs again.

        Raises:
            InputError: for texts without prompts, prompts with tools, or rows without anything to grade by.
        """
        found = self._survey(split)
        numbers = self._numbers(found, split)
        raws = Picked(found.raw, numbers, lambda raw: raw)
        return problems_of(
            (
                (number, found.read(raw), None if self.reference is None else raw[self.reference])
                for number, raw in zip(numbers.tolist(), raws, strict=True)
            ),
            self.path,
        )

    def chats(self, split: str) -> Sequence[Any]:
        """What supervised training learns from, each read when it is asked for.

        A `TextRow`, a `Conversation` where the row has tools or weights, and else the list of messages, which
        ends in the worked answer.

        Raises:
            InputError: for rows that are there for other methods.
        """
        found = self._survey(split)
        check_supervised(found.layout.kind, learn_chosen=self.learn_chosen, name=self.path)
        return Picked(found.raw, self._numbers(found, split), lambda raw: learned(found.read(raw)))

    def fingerprint(self, split: str) -> str:
        """16 hex digits that change with the rows of a split: with the files' bytes and the settings.

        The report on the table is printed here too, as who knows the fingerprint may not need the rows.
        """
        origin = self._origin(split)
        text = reports.kept(self._file(origin, ".report"), self._key(origin))
        say(text if text is not None else self._survey(split).report)
        return self._key(split)

    @property
    def _splits(self) -> dict[str, RawRows]:
        return read_splits(self.path, self.configuration, stamp_of(self.path))

    @cached_property
    def _surveys(self) -> dict[str, Survey]:
        return {}

    def _origin(self, split: str) -> str:
        """The split of the data that a split is taken from."""
        check_split(split)
        splits = self._splits
        origin = split if split in splits else "train"
        if origin not in splits:
            raise InputError(f"{self.path} has no rows for split {split!r}; it has {', '.join(splits)}")
        return origin

    def _survey(self, split: str) -> Survey:
        origin, splits = self._origin(split), self._splits
        found = self._surveys.get(origin)
        if found is None or found.raw is not splits[origin]:  # not looked through yet, or changed since
            found = self._surveys[origin] = self._look_through(origin, splits)
            if len(found.raw) >= reports.LARGE_ROWS:
                reports.keep(self._file(origin, ".report"), self._key(origin), found.report)
            say(found.report)
        return found

    def _look_through(self, origin: str, splits: Mapping[str, RawRows]) -> Survey:
        raw, name = splits[origin], f"{self.path} ({origin})"
        if not len(raw):
            raise InputError(f"{name} has no rows; check the path and the split")
        limit, file = self.quarantine.max_bad_fraction, self._file(origin, ".jsonl")
        quarantine = Quarantine(file, limit, rows=len(raw), name=name)

        def split(row: Row) -> str:
            if origin != "train":
                return origin
            chosen = split_of(key_of(row), self.held_out_share)
            return "train" if chosen in splits else chosen  # a split that has its own rows takes none

        layout = self._layout(raw)
        return survey(raw, layout, split, quarantine, lambda row: self._read(row, layout))

    def _file(self, origin: str, ending: str) -> Path:
        """A file of the quarantine's folder that is this table's own."""
        place = Path(self.path).expanduser().absolute()
        return self.quarantine.file(f"{place.name}-{origin}-{digest(str(place))[:8]}{ending}")

    def _key(self, part: str) -> str:
        settings = asdict(replace(self, path="", quarantine=replace(self.quarantine, folder=None)))
        files = {name: rows.digest() for name, rows in self._splits.items()}
        return digest(json.dumps([settings, files, part], sort_keys=True))

    def _layout(self, raw: RawRows) -> Layout:
        columns, first, layout = raw.columns(), raw[:FIRST_ROWS], self.layout
        if layout is None and self.prompt is not None:
            layout = "prompt" if self.completion is None else "prompt_completion"
        own = {"prompt": self.prompt, "completion": self.completion}
        names = (self.columns or {}) | {name: column for name, column in own.items() if column is not None}
        found = choose(columns, first, layout=layout, names=names, neutral=self.neutral, name=self.path)
        check_columns([] if self.reference is None else [self.reference], columns, self.path)
        return found

    def _read(self, raw: Raw, layout: Layout) -> Row:
        row = layout.read(raw, self.quarantine.max_row_characters)
        if self.reference is None or isinstance(raw, Unreadable):
            return row
        if raw.get(self.reference) is None:
            raise BrokenRow(f"{self.reference} is missing")
        return replace(row, reference=raw[self.reference]) if isinstance(row, PromptRow) else row

    def _numbers(self, found: Survey, split: str) -> np.ndarray:
        numbers = found.numbers(split)
        if not len(numbers):
            raise InputError(
                f"no row of {self.path} falls into split {split!r}; raise held_out_share "
                f"(now {self.held_out_share}), or give the split its own file"
            )
        return numbers
