"""What procedural sources share: problems made from their index, so that any size costs nothing."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar, overload

from lit_posttrain.batches import Problem
from lit_posttrain.contracts import ProblemSource
from lit_posttrain.data.sources.splitting import check_share, check_split, split_of
from lit_posttrain.errors import InputError

Item = TypeVar("Item")
TRIES_PER_PROBLEM = 20_000


class Lazy(Sequence[Item]):
    """A sequence whose items are made when they are asked for."""

    def __init__(self, size: int, make: Callable[[int], Item]) -> None:
        self._size, self._make = size, make

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> "Lazy[Item]": ...
    def __getitem__(self, index: int | slice) -> "Item | Lazy[Item]":
        if isinstance(index, slice):
            chosen = range(self._size)[index]
            return Lazy(len(chosen), lambda i: self._make(chosen[i]))
        return self._make(range(self._size)[index])


@dataclass(frozen=True)
class Drawn:
    """A problem with its worked answer and `key`, the text that decides its split: alike for twins."""

    text: str
    answer: str
    reference: Any
    key: str


class ProceduralSource(ProblemSource):
    """Problems drawn by index: the i-th of a split is a function of (seed, split, i) alone.

    Every split is drawn with replacement from its own part of the space, so that held-out problems are as hard
    as those of training, and there may be any number of them. The uid is `<key>#<index>`, unique even where a
    small space repeats itself. Children are frozen dataclasses with these four fields.
    """

    train_size: int
    held_out_size: int
    held_out_share: float
    seed: int

    @abstractmethod
    def draw(self, random: Random) -> Drawn | None:
        """One problem of the whole space, or None to be asked again."""

    def check(self) -> None:
        """For `__post_init__` of children.

        Raises:
            InputError: for sizes or shares that make no sense.
        """
        if self.train_size < 1 or self.held_out_size < 1:
            raise InputError(f"sizes must be at least 1; got {self}")
        check_share(self.held_out_share)

    def problems(self, split: str) -> Sequence[Problem]:
        """All problems of the split; made when asked for."""
        return self._each(split, self._problem)

    def chats(self, split: str) -> Sequence[Sequence[dict[str, str]]]:
        """The same problems with their worked answers."""
        return self._each(split, lambda drawn, uid: _chat(drawn))

    def _problem(self, drawn: Drawn, uid: str) -> Problem:
        return Problem(({"role": "user", "content": drawn.text},), drawn.reference, uid, type(self).__name__)

    def _each(self, split: str, make: Callable[[Drawn, str], Item]) -> Sequence[Item]:
        check_split(split)
        size = self.train_size if split == "train" else self.held_out_size
        return Lazy(size, lambda i: make(drawn := self.drawn(split, i), f"{drawn.key}#{i}"))

    def drawn(self, split: str, index: int) -> Drawn:
        """The `index`-th draw: problems are drawn until one belongs to the split."""
        random = Random(f"{self.seed}|{split}|{index}")
        for _ in range(TRIES_PER_PROBLEM):
            drawn = self.draw(random)
            if drawn is not None and split_of(drawn.key, self.held_out_share) == split:
                return drawn
        raise InputError(
            f"{self} has hardly any problem in split {split!r}: none in {TRIES_PER_PROBLEM} draws; "
            "raise held_out_share or widen the problems"
        )


def _chat(drawn: Drawn) -> list[dict[str, str]]:
    return [{"role": "user", "content": drawn.text}, {"role": "assistant", "content": drawn.answer}]
