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
from lit_posttrain.data.steps import Cut, build, layout, weigh
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

    def batch(self, rows: Sequence[int], pad_id: int) -> TokenBatch:
        """The chosen sequences, one per row."""
        spans = [slice(self.starts[row], self.starts[row + 1]) for row in rows]
        return collate.from_lists([self.ids[s] for s in spans], [self.mask[s] for s in spans], pad_id)  # type: ignore[misc]


class TokenLoader:
    """Yields the micro-batches of every optimiser step of an epoch; each sequence stands in it exactly once.

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
        step = self.table.batch(rows, self.pad_id)
        weigh(step, self.weighting)
        return [build(step, part, self.cut) for part in layout(collate.lengths(step).tolist(), self.cut)]

    def state_dict(self) -> dict[str, Any]:
        """Epoch and position in it."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken."""
        self.epoch, self.position = state["epoch"], state["position"]
