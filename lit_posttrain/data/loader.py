"""A sized, stateful loader over tokenised conversations: order and steps are a function of (seed, epoch)."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lit_posttrain import collate
from lit_posttrain.batches import TokenBatch
from lit_posttrain.contracts import TokenWeights
from lit_posttrain.data.steps import Cut, Rows, layout, position_of, silent, standing
from lit_posttrain.keys import digest


@dataclass(frozen=True)
class TokenTable:
    """Tokenised sequences, end to end: `ids` int32 and `mask` bool of all tokens, `starts` (rows + 1,)."""

    ids: np.ndarray
    mask: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, ids: Sequence[Sequence[int]], masks: Sequence[Sequence[bool]]) -> "TokenTable":
        """From one list of ids and one of mask values per sequence."""
        starts = np.concatenate([[0], np.cumsum([len(row) for row in ids], dtype=np.int64)])
        return cls(
            np.fromiter((token for row in ids for token in row), np.int32, int(starts[-1])),
            np.fromiter((marked for row in masks for marked in row), np.bool_, int(starts[-1])),
            starts,
        )

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def digest(self) -> str:
        """16 hex digits of all tokens, masks and boundaries."""
        whole = hashlib.blake2b(digest_size=8)
        for part in (self.ids, self.mask, self.starts):
            whole.update(part.tobytes())
        return whole.hexdigest()

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence."""
        return np.diff(self.starts)

    @property
    def counts(self) -> np.ndarray:
        """Tokens under the mask of each sequence; the first token of a sequence is never predicted."""
        before = np.concatenate([[0], np.cumsum(self.mask, dtype=np.int64)])
        return before[self.starts[1:]] - before[self.starts[:-1] + 1]

    def batch(self, rows: Sequence[int], pad_id: int) -> TokenBatch:
        """The chosen sequences, one per row."""
        spans = [slice(self.starts[row], self.starts[row + 1]) for row in rows]
        return collate.from_lists([self.ids[s] for s in spans], [self.mask[s] for s in spans], pad_id)  # type: ignore[misc]


class TokenLoader:
    """Yields this rank's micro-batches of every optimiser step of an epoch; each sequence stands in it once.

    Args:
        table: The sequences.
        batch_sequences: Sequences of one optimiser step; the last step of an epoch may hold fewer.
        cut: How a step is cut into micro-batches.
        weighting: How tokens are weighed within a step.
        pad_id: Fills the room behind short sequences.
        seed: Of the order.
        shuffle: Draw a new order every epoch.
    """

    def __init__(
        self,
        table: TokenTable,
        *,
        batch_sequences: int,
        cut: Cut,
        weighting: TokenWeights,
        pad_id: int,
        seed: int,
        shuffle: bool = True,
    ) -> None:
        self.table, self.batch_sequences, self.cut, self.weighting = table, batch_sequences, cut, weighting
        self.pad_id, self.seed, self.shuffle = pad_id, seed, shuffle
        self.lengths, self.counts = table.lengths, table.counts
        self.epoch = 0
        self.position = 0

    def __len__(self) -> int:
        return -(-len(self.table) // self.batch_sequences) * self.cut.micro_batches

    def order(self, epoch: int) -> torch.Tensor:
        """The rows of an epoch in the order of training."""
        if not self.shuffle:
            return torch.arange(len(self.table))
        generator = torch.Generator().manual_seed(digest(self.seed, "epoch", epoch))
        return torch.randperm(len(self.table), generator=generator)

    def __iter__(self) -> Iterator[TokenBatch]:
        if self.position >= len(self):
            self.epoch, self.position = self.epoch + 1, 0
        steps = self.order(self.epoch).split(self.batch_sequences)
        k = self.cut.micro_batches
        for number in range(self.position // k, len(steps)):
            batches = self._step(steps[number].tolist())
            for inner in range(self.position - number * k, k):
                self.position = number * k + inner + 1
                yield batches[inner]

    def _step(self, rows: list[int]) -> list[TokenBatch]:
        """This rank's micro-batches of a step; the weights are of the whole step."""
        sizes = self.lengths[rows].tolist()
        counts = torch.from_numpy(self.counts[rows])
        weights = self.weighting(counts, torch.arange(len(rows)))
        shortest = min(range(len(rows)), key=lambda i: sizes[i])
        plan = [parts[self.cut.ranks.index] for parts in layout(sizes, self.cut)]
        return [
            self._micro_batch(rows, part, weights)
            if part
            else silent(self.table.batch([rows[shortest]], self.pad_id))
            for part in plan
        ]

    def _micro_batch(self, rows: list[int], part: Rows, weights: torch.Tensor) -> TokenBatch:
        order = [item for row in part for item in row]
        batch = self.table.batch([rows[item] for item in order], self.pad_id)
        batch.weights = weights[order][:, None] * batch.mask
        if not self.cut.packed:
            return batch
        numbers = iter(range(len(order)))
        return collate.pack(batch, [[next(numbers) for _ in row] for row in part])

    def state_dict(self) -> dict[str, Any]:
        """Epoch and position in it."""
        return {"epoch": self.epoch, **standing(self.position, self.cut)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken, also with another number of micro-batches or ranks."""
        self.epoch, self.position = state["epoch"], position_of(state, self.cut)
