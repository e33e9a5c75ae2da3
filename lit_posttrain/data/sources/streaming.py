"""Data that is read while it is learned, since there is too much of it to be prepared first."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from lit_posttrain.batches import Problem
from lit_posttrain.contracts import ProblemSource
from lit_posttrain.errors import InputError


@dataclass(frozen=True)
class Streaming(ProblemSource):
    """Rows of a source that are tokenised as they are needed, window by window.

    An epoch is the first `rows_per_epoch` rows of the training split, in their order but for a shuffle within each
    window; the next epoch begins at the first row again. Nothing is known of rows that have not been read, so a
    row that is too long or broken is found when it comes. Held-out splits are prepared as usual.

    Args:
        source: Where the rows come from; it should give them one by one, as `Table` and `Mixture` do.
        rows_per_epoch: Rows of an epoch, without those that are left out as too long. There must be as many.
        window: Rows that are planned and shuffled together, and in memory; rounded up to whole steps.

    Raises:
        InputError: for sizes below 1.
    """

    source: ProblemSource
    rows_per_epoch: int
    window: int = 8192

    def __post_init__(self) -> None:
        if self.rows_per_epoch < 1 or self.window < 1:
            raise InputError(
                "streaming needs rows_per_epoch and window of at least 1 "
                f"(got {self.rows_per_epoch} and {self.window})"
            )

    def problems(self, split: str) -> Sequence[Problem]:
        """Those of the source."""
        return self.source.problems(split)

    def chats(self, split: str) -> Iterable[Any]:
        """Those of the source."""
        return self.source.chats(split)

    def rows(self, split: str, start: int) -> Iterator[Any]:
        """The rows of a split from number `start` on."""
        rows = self.source.chats(split)
        if isinstance(rows, Sequence):
            return (rows[number] for number in range(start, len(rows))) if start else iter(rows)
        return islice(iter(rows), start, None)
