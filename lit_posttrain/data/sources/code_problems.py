"""Programming problems with tests, from files of our own format and from data sets in the layout of the field."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lit_posttrain.batches import Problem
from lit_posttrain.contracts import ProblemSource
from lit_posttrain.data.formats import Chat, Unreadable
from lit_posttrain.data.sources.rows import read_splits, stamp_of
from lit_posttrain.data.sources.splitting import check_share, check_split, digest, split_of
from lit_posttrain.errors import InputError

Row = Mapping[str, Any]
KINDS = ("function", "stdin", "asserts", "check")


@dataclass(frozen=True)
class CodeProblems(ProblemSource):
    """Problems of JSON lines: a `prompt`, and beside it the reference that `CodeTests` reads.

    The reference is either the row's own fields (`kind`, `entry`, `tests`, `public` and so on) or an object in
    `reference`. Optional are `id` and `solution`, a worked answer for supervised training. A split that the data
    does not have is held out of its training rows by a hash of the prompt.

    Args:
        path: A file (the training split), a folder with a file per split, or a hub name.
        held_out_share: Share of the training rows that goes to each split that the data does not have.
    """

    path: str
    held_out_share: float = 0.05

    def __post_init__(self) -> None:
        check_share(self.held_out_share)

    def problems(self, split: str) -> list[Problem]:
        """The problems of a split, in the order of the file.

        Raises:
            InputError: for rows without a prompt or tests.
        """
        return [self._problem(row, number) for number, row in self._rows(split)]

    def chats(self, split: str) -> Iterator[Chat]:
        """The problems with their solutions, as a fenced block."""
        for number, row in self._rows(split):
            if not isinstance(row.get("solution"), str):
                raise InputError(
                    f"row {number} of {self.path} has no solution to train on; add one, or leave it out"
                )
            yield [*map(dict, self._problem(row, number).messages), answer_with(row["solution"])]

    def _rows(self, split: str) -> list[tuple[int, Row]]:
        origin, rows, own = rows_for(self.path, split)

        def belongs(row: Row) -> bool:
            chosen = split_of(str(row.get("prompt")), self.held_out_share)
            return origin != "train" or ("train" if chosen in own else chosen) == split

        return kept(rows, belongs, self.path, split)

    def _problem(self, row: Row, number: int) -> Problem:
        prompt, reference = row.get("prompt"), row.get("reference", row)
        if not isinstance(prompt, str) or not prompt:
            raise InputError(f"row {number} of {self.path} needs a text as prompt; got {prompt!r}")
        if (
            not isinstance(reference, Mapping)
            or reference.get("kind") not in KINDS
            or not reference.get("tests")
        ):
            raise InputError(
                f"row {number} of {self.path} needs a kind ({', '.join(KINDS)}) and tests; see CodeTests for their form"
            )
        fields = {name: value for name, value in reference.items() if value is not None}
        tests = {name: value for name, value in fields.items() if name not in ("id", "solution")}
        if reference is row and reference["kind"] != "check":
            tests.pop("prompt")
        uid = str(row.get("id") or digest(json.dumps([prompt, tests], sort_keys=True, default=str)))
        return problem(prompt, tests, uid, self.path)


def problem(prompt: str, reference: Any, uid: str, source: str) -> Problem:
    """A problem with one message of the user."""
    return Problem(({"role": "user", "content": prompt},), reference, uid, source)


def answer_with(code: str) -> dict[str, str]:
    """The message of a model that answers with this program."""
    return {"role": "assistant", "content": f"```python\n{code.rstrip()}\n```"}


def rows_for(path: str, split: str) -> tuple[str, list[Row], set[str]]:
    """The split of the data that a split is taken from, its rows, and the splits that the data has.

    Raises:
        InputError: for rows that cannot be read, or where there are none.
    """
    check_split(split)
    splits = read_splits(path, None, stamp_of(path))
    origin = split if split in splits else "train" if "train" in splits else next(iter(splits))
    rows: list[Row] = []
    for number, row in enumerate(splits[origin]):
        if isinstance(row, Unreadable):
            raise InputError(f"row {number} of {path} ({origin}) cannot be read: {row.reason}")
        rows.append(row)
    return origin, rows, set(splits)


def kept(rows: list[Row], belongs: Callable[[Row], bool], path: str, split: str) -> list[tuple[int, Row]]:
    """The rows of a split with their numbers.

    Raises:
        InputError: if there are none.
    """
    found = [(number, row) for number, row in enumerate(rows) if belongs(row)]
    if not found:
        raise InputError(f"no row of {path} belongs to split {split!r}; choose another, or give other data")
    return found
