"""A sized, stateful loader over tokenised conversations: order and steps are a function of (seed, epoch)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic

import numpy as np
import torch

from lit_posttrain import collate
from lit_posttrain.batches import TokenBatch
from lit_posttrain.contracts import TokenWeights
from lit_posttrain.data.order import EpochOrder
from lit_posttrain.data.replay import ReplayOrder
from lit_posttrain.data.steps import Batch, Cut, Rows, layout, position_of, silent, standing
from lit_posttrain.data.token_table import JoinedTable, TokenTable


class StepBuilder:
    """Cuts the sequences of one optimiser step into this rank's micro-batches, with the weights of the whole step.

    Args:
        cut: How a step is cut into micro-batches.
        weighting: How tokens are weighed within a step.
        pad_id: Fills the room behind short sequences.
    """

    def __init__(self, cut: Cut, weighting: TokenWeights, pad_id: int) -> None:
        self.cut, self.weighting, self.pad_id = cut, weighting, pad_id

    def step(
        self, table: TokenTable | JoinedTable, rows: Sequence[int], lengths: np.ndarray, counts: np.ndarray
    ) -> list[TokenBatch]:
        """The micro-batches of a step of these rows; `lengths` and `counts` are those of the whole table."""
        sizes = lengths[rows].tolist()
        weights = self.weighting(torch.from_numpy(counts[rows]), torch.arange(len(rows)))
        shortest = min(range(len(rows)), key=lambda i: sizes[i])
        plan = [parts[self.cut.ranks.index] for parts in layout(sizes, self.cut)]
        return [
            self._micro_batch(table, rows, part, weights)
            if part
            else silent(table.batch([rows[shortest]], self.pad_id))
            for part in plan
        ]

    def _micro_batch(
        self, table: TokenTable | JoinedTable, rows: Sequence[int], part: Rows, weights: torch.Tensor
    ) -> TokenBatch:
        order = [item for row in part for item in row]
        batch = table.batch([rows[item] for item in order], self.pad_id)
        batch.weights = weights[order][:, None] * batch.weights
        if not self.cut.packed:
            return batch
        numbers = iter(range(len(order)))
        return collate.pack(batch, [[next(numbers) for _ in row] for row in part])


class StepLoader(Generic[Batch]):
    """Yields this rank's micro-batches of every optimiser step of an epoch, and goes on where it stopped.

    Args:
        order: Which rows each step holds.
        cut: How a step is cut into micro-batches.
    """

    def __init__(self, order: EpochOrder, cut: Cut) -> None:
        self.order, self.cut = order, cut
        self.epoch = 0
        self.position = 0

    def step(self, rows: np.ndarray, number: int) -> list[Batch]:
        """This rank's micro-batches of the step of these rows, which has this number in its epoch."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.order.steps * self.cut.micro_batches

    def __iter__(self) -> Iterator[Batch]:
        if self.position >= len(self):
            self.epoch, self.position = self.epoch + 1, 0
        steps = self.order.epoch(self.epoch)
        k = self.cut.micro_batches
        for number in range(self.position // k, len(steps)):
            batches = self.step(steps[number], number)
            for inner in range(self.position - number * k, k):
                self.position = number * k + inner + 1
                yield batches[inner]

    def state_dict(self) -> dict[str, Any]:
        """Epoch and position in it."""
        return {"epoch": self.epoch, **standing(self.position, self.cut)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken, also with another number of micro-batches or ranks."""
        self.epoch, self.position = state["epoch"], position_of(state, self.cut)


class TokenLoader(StepLoader[TokenBatch]):
    """Yields micro-batches of conversations, as `order` says.

    Args:
        table: The sequences.
        order: Which of them each step holds.
        cut: How a step is cut into micro-batches.
        weighting: How tokens are weighed within a step.
        pad_id: Fills the room behind short sequences.
        replay: Which other rows of the table join each step.
    """

    def __init__(
        self,
        table: TokenTable | JoinedTable,
        order: EpochOrder,
        *,
        cut: Cut,
        weighting: TokenWeights,
        pad_id: int,
        replay: ReplayOrder | None = None,
    ) -> None:
        super().__init__(order, cut)
        self.table, self.replay = table, replay
        self.builder = StepBuilder(cut, weighting, pad_id)
        self.lengths, self.counts = table.lengths, table.counts

    def step(self, rows: np.ndarray, number: int) -> list[TokenBatch]:
        """This rank's micro-batches, of what is replayed in the step too."""
        if self.replay is not None:
            again = self.replay.rows(self.epoch * self.order.steps + number)
            rows = np.concatenate([rows, again])
        return self.builder.step(self.table, rows.tolist(), self.lengths, self.counts)
