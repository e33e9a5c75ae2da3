"""A sized, stateful loader over units: both sides of a pair, or all of a group, in one micro-batch of one rank."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from lit_posttrain import collate
from lit_posttrain.batches import TokenBatch
from lit_posttrain.data.loader import StepLoader
from lit_posttrain.data.order import EpochOrder
from lit_posttrain.data.steps import Cut, Rows, unit_layout
from lit_posttrain.data.units import Unit, UnitRows, side_by_side

Batch = TypeVar("Batch", bound=TokenBatch)


@dataclass(frozen=True)
class Standing:
    """Where the sequences of a batch come from.

    Per sequence (S,): `unit` int64, the units of the batch numbered from 0; `number` int64, which of its unit's
    sequences it is; `value` float32; `share` float32, its unit's share in the loss of the step, 0 in a batch that
    only keeps step with other ranks. `labels` (B, T) float32 are those of tokens, NaN where there is none.
    """

    unit: Tensor
    number: Tensor
    value: Tensor
    share: Tensor
    labels: Tensor


Assembly = Callable[[TokenBatch, Standing], Batch]
"""Makes the batch of a method from one sequence per row and what is known of each."""
Shares = Callable[[Sequence[Unit], Tensor], Tensor]
"""The share of each unit of a step, (units,), from all of them and their counts."""


def even(units: Sequence[Unit], counts: Tensor) -> Tensor:
    """Every unit of a step counts alike."""
    return torch.full((len(units),), 1 / len(units), dtype=torch.float64).float()


@runtime_checkable
class StepReader(Protocol):
    """A method that looks at all micro-batches of a step before it learns from the first."""

    def before_step(self, batches: Sequence[TokenBatch]) -> None:
        """Called on every rank with its own micro-batches, on the CPU; the calls may be collective."""
        ...


class UnitBuilder:
    """Cuts the units of one optimiser step into this rank's micro-batches, with the shares of the whole step.

    Args:
        units: The units.
        cut: How a step is cut into micro-batches.
        assembly: Makes the batches.
        shares: Of the units of a step.
        pad_id: Fills the room behind short sequences.
        reference: Log-probs of the reference of all tokens of all units, end to end, in nats.
    """

    def __init__(
        self,
        units: UnitRows,
        cut: Cut,
        assembly: Assembly[Batch],
        shares: Shares,
        pad_id: int,
        reference: np.ndarray | None = None,
    ) -> None:
        self.units, self.cut, self.assembly, self.shares = units, cut, assembly, shares
        self.pad_id, self.reference = pad_id, reference
        self._starts = np.concatenate([[0], np.cumsum(units.lengths, dtype=np.int64)])

    def step(self, rows: Sequence[int]) -> list[TokenBatch]:
        """The micro-batches of a step of these units."""
        units = [self.units.unit(row) for row in rows]
        shares = self.shares(units, torch.from_numpy(self.units.counts[list(rows)]))
        plan = unit_layout([[len(member) for member in unit] for unit in units], self.cut)
        owners = [(i, n) for i, unit in enumerate(units) for n in range(len(unit))]
        shortest = min(range(len(units)), key=lambda i: sum(map(len, units[i])))
        silent = [[number] for number, (i, _) in enumerate(owners) if i == shortest]
        batches = []
        for parts in plan:
            part = parts[self.cut.ranks.index]
            kept = shares if part else torch.zeros_like(shares)
            batches.append(self._micro_batch(rows, units, owners, part or silent, kept))
        return batches

    def _micro_batch(
        self,
        rows: Sequence[int],
        units: Sequence[Unit],
        owners: Sequence[tuple[int, int]],
        part: Rows,
        shares: Tensor,
    ) -> TokenBatch:
        chosen = [owners[number] for row in part for number in row]
        members = [units[i][n] for i, n in chosen]
        base = side_by_side(members, self.pad_id)
        local = {i: number for number, i in enumerate(dict.fromkeys(i for i, _ in chosen))}
        labels = [np.where(m.mask, m.values, np.nan) for m in members]
        standing = Standing(
            torch.tensor([local[i] for i, _ in chosen]),
            torch.tensor([n for _, n in chosen]),
            torch.tensor([m.value for m in members], dtype=torch.float32),
            shares[[i for i, _ in chosen]],
            padded(labels, base, float("nan")),
        )
        batch = self.assembly(base, standing)
        if self.reference is not None:
            spans = [self._reference_of(rows[i], units[i], n) for i, n in chosen]
            batch.reference_logprobs = padded(spans, base, 0.0)  # type: ignore[attr-defined]
        if not self.cut.packed:
            return batch
        numbers = iter(range(len(chosen)))
        return collate.pack(batch, [[next(numbers) for _ in row] for row in part])

    def _reference_of(self, row: int, unit: Unit, number: int) -> np.ndarray:
        assert self.reference is not None
        start = int(self._starts[row]) + sum(map(len, unit[:number]))
        return np.array(self.reference[start : start + len(unit[number])])


class UnitLoader(StepLoader[TokenBatch]):
    """Yields micro-batches of units, as `order` says.

    Args:
        order: Which units each step holds.
        builder: Cuts the steps.
        before_step: Is given this rank's micro-batches of a step before the first of them is learned from.
    """

    def __init__(
        self,
        order: EpochOrder,
        builder: UnitBuilder,
        before_step: Callable[[Sequence[TokenBatch]], None] | None = None,
    ) -> None:
        super().__init__(order, builder.cut)
        self.builder, self.before_step = builder, before_step

    def step(self, rows: np.ndarray, number: int) -> list[TokenBatch]:
        """This rank's micro-batches."""
        batches = self.builder.step(rows.tolist())
        if self.before_step is not None:
            self.before_step(batches)
        return batches


def padded(values: Sequence[np.ndarray], base: TokenBatch, fill: float) -> Tensor:
    """Values of the tokens of each sequence, as float32 in the shape of a batch with one sequence per row."""
    whole = torch.full(base.input_ids.shape, fill, dtype=torch.float32)
    for row, value in enumerate(values):
        whole[row, : len(value)] = torch.from_numpy(np.asarray(value, np.float32))
    return whole


def spread(shares: Tensor, mask: Tensor, unit: Tensor) -> Tensor:
    """Weights (B, T): the share of each unit, evenly over the tokens under the mask of all its sequences."""
    counts = mask.sum(dim=1)
    whole = torch.zeros(int(unit.max()) + 1).index_add(0, unit, counts.float())
    return (shares / whole[unit].clamp(min=1))[:, None] * mask
