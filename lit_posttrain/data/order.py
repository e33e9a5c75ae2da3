"""Which sequences each optimiser step of an epoch holds: a function of (seed, epoch, length table) alone.

Every process computes it alike, and a step can be found again without those before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from lit_posttrain.errors import InputError
from lit_posttrain.keys import digest


@dataclass(frozen=True)
class Portion:
    """What an epoch takes of one source: `draws` of the rows `first` … `first + rows - 1` of a table.

    Where an epoch takes fewer than there are, each of them comes once in it, and the next one goes on with the
    others; where it takes more, rows come again. No row comes a second time before all have come once.
    """

    first: int
    rows: int
    draws: int


@dataclass(frozen=True)
class StepSize:
    """How much one optimiser step holds, over all micro-batches and ranks: `sequences`, or about `tokens`."""

    sequences: int = 0
    tokens: int = 0

    def __post_init__(self) -> None:
        if self.tokens < 0 or self.sequences < 0 or (self.tokens > 0) == (self.sequences > 0):
            raise InputError(
                "a step holds either batch_sequences or batch_tokens, and at least 1 of it (got "
                f"batch_sequences {self.sequences} and batch_tokens {self.tokens})"
            )


class EpochOrder:
    """The steps of every epoch. Each holds sequences in the order of training.

    With `size.sequences` the last step of an epoch may hold fewer. With `size.tokens` every epoch has the same
    number of steps and is cut where its tokens are divided most evenly: steps are of about the same size, with
    at most one (the longest) sequence more than asked for.

    Args:
        lengths: Tokens of each row of the table.
        portions: What an epoch takes of it; all rows once by default.
        size: Of a step.
        seed: Of the order.
        shuffle: Draw a new order every epoch.
        name: Keeps the orders of several of these apart.

    Raises:
        InputError: if a sequence is longer than a step.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        size: StepSize,
        *,
        portions: Sequence[Portion] = (),
        seed: int = 0,
        shuffle: bool = True,
        name: str = "",
    ) -> None:
        self.lengths, self.size, self.seed, self.shuffle, self.name = lengths, size, seed, shuffle, name
        self.portions = [*portions] or [Portion(0, len(lengths), len(lengths))]
        self.sequences = sum(portion.draws for portion in self.portions)
        self.steps = self._steps()
        self._known: dict[int, tuple[int, np.ndarray]] = {}  # the latest permutation of each portion

    def _steps(self) -> int:
        if self.size.sequences:
            return -(-self.sequences // self.size.sequences)
        means = [(p.draws, self.lengths[p.first : p.first + p.rows]) for p in self.portions]
        steps = max(1, -(-int(sum(n * float(rows.mean()) for n, rows in means)) // self.size.tokens))
        longest = max(int(rows.max()) for _, rows in means)
        if longest > self.size.tokens:
            raise InputError(
                f"batch_tokens {self.size.tokens} is less than the longest sequence, of {longest} tokens; raise it"
            )
        return steps

    def rows(self, epoch: int) -> np.ndarray:
        """The rows of an epoch in the order of training, (sequences,) int64."""
        chosen = np.concatenate([self._drawn(number, epoch) for number in range(len(self.portions))])
        return chosen[self._permutation(len(chosen), "epoch", epoch)] if self.shuffle else chosen

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """The rows of each step of an epoch."""
        rows = self.rows(epoch)
        return np.split(rows, self._cuts(rows))

    def _cuts(self, rows: np.ndarray) -> np.ndarray:
        """Where the second and later steps begin."""
        if self.size.sequences:
            return np.arange(self.size.sequences, len(rows), self.size.sequences)
        lengths = self.lengths[rows].astype(np.int64)
        ends = np.cumsum(lengths)
        step = (2 * ends - lengths) * self.steps // (2 * int(ends[-1]))  # where the middle of a sequence lies
        cuts, number = np.searchsorted(step, np.arange(1, self.steps)), np.arange(self.steps - 1)
        cuts = np.maximum.accumulate(np.maximum(cuts - number, 1)) + number  # no step without a sequence
        return np.minimum(cuts, len(rows) - self.steps + 1 + number)

    def _drawn(self, number: int, epoch: int) -> np.ndarray:
        """The rows that an epoch takes of a portion, from an endless row of permutations of it."""
        portion = self.portions[number]
        if portion.draws == portion.rows:
            return portion.first + np.arange(portion.rows)
        begin, end = epoch * portion.draws, (epoch + 1) * portion.draws
        passes = range(begin // portion.rows, -(-end // portion.rows))
        drawn = np.concatenate([self._pass(number, index) for index in passes])
        skipped = passes.start * portion.rows
        return portion.first + drawn[begin - skipped : end - skipped]

    def _pass(self, number: int, index: int) -> np.ndarray:
        """Permutation number `index` of a portion.

        An epoch that begins with the end of one permutation goes on with the next one, in which what it has
        already comes last, so that no row stands in it twice.
        """
        portion = self.portions[number]
        known, order = self._known.get(number, (-1, np.empty(0, np.int64)))
        if known > index:
            known = -1
        for later in range(known + 1, index + 1):
            begun = later * portion.rows % portion.draws if portion.draws < portion.rows else 0
            before = order[len(order) - begun :] if later else order[:0]
            order = np.arange(portion.rows)
            if self.shuffle:
                order = self._permutation(portion.rows, "portion", number, later)
            again = np.isin(order, before)
            order = np.concatenate([order[~again], order[again]])
        self._known[number] = (index, order)
        return order

    def _permutation(self, length: int, *key: object) -> np.ndarray:
        names = [self.name] if self.name else []
        return _permutation(length, digest(self.seed, *names, *key))


@lru_cache(maxsize=4)
def _permutation(length: int, seed: int) -> np.ndarray:
    return torch.randperm(length, generator=torch.Generator().manual_seed(seed)).numpy()
