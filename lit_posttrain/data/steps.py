"""Cuts one optimiser step into micro-batches and fills its weights.

The cut is the same for every method: choose the sequences of the step, balance them over k micro-batches on
every rank by tokens, pad or pack each, and let a `TokenWeights` say how much every token counts. All ranks
compute the whole plan alike, so that weights are those of the whole step, and build their own part of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapreplace
from itertools import accumulate
from typing import TypeVar

import torch
from torch import Tensor

from lit_posttrain import collate
from lit_posttrain.batches import TokenBatch
from lit_posttrain.contracts import TokenWeights
from lit_posttrain.errors import InputError
from lit_posttrain.ranks import Ranks

Batch = TypeVar("Batch", bound=TokenBatch)


@dataclass(frozen=True)
class Cut:
    """How a step becomes micro-batches.

    Args:
        micro_batches: k, the number of micro-batches on each rank; equal to the trainer's
            `accumulate_grad_batches`.
        packed: Pack several sequences into a row instead of padding each to the longest.
        row_tokens: Most tokens of a packed row; 0 means as many as the longest sequence of the step.
        ranks: Over which the step is divided, and which of them this process is.
    """

    micro_batches: int = 1
    packed: bool = False
    row_tokens: int = 0
    ranks: Ranks = field(default_factory=Ranks)


def balanced(sizes: Sequence[int], parts: int) -> list[list[int]]:
    """Divides items into `parts` groups of neighbouring sizes with about equal totals.

    Items are ordered by size first, so that padding is small; every part gets at least one item as long as there
    are enough.
    """
    order = sorted(range(len(sizes)), key=lambda i: (sizes[i], i))
    groups: list[list[int]] = []
    left = sum(sizes)
    for remaining in range(parts, 0, -1):
        share, group, total = left / remaining, [], 0
        while order and len(order) > remaining - 1 and (not group or total + sizes[order[0]] / 2 <= share):
            total += sizes[order[0]]
            group.append(order.pop(0))
        if remaining == 1:
            group += order
            total += sum(sizes[i] for i in order)
            order = []
        groups.append(group)
        left -= total
    return groups


def weigh(
    batch: TokenBatch, weighting: TokenWeights, group: Tensor | None = None, counted: Tensor | None = None
) -> None:
    """Fills `weights` of a one-sequence-per-row batch that is one whole optimiser step.

    Without `group` every sequence is its own. Sequences that are not `counted` (B,) bool are weighed as if they had
    no tokens, so that denominators leave them out, and their tokens get 0; all are counted by default.
    """
    counts = batch.mask.sum(dim=1)
    groups = torch.arange(len(counts)) if group is None else group
    live = torch.ones_like(counts, dtype=torch.bool) if counted is None else counted
    batch.weights = weighting(counts * live, groups)[:, None] * (batch.mask & live[:, None])


Rows = list[list[int]]
"""The rows of a micro-batch, each with the sequences that stand in it."""


def layout(sizes: Sequence[int], cut: Cut) -> list[list[Rows]]:
    """For each of the k micro-batches what every rank gets of it; every sequence stands exactly once.

    What the ranks get of one micro-batch is of about equal size, so that none waits long for another. Where
    there are fewer sequences than parts, the last parts are empty.
    """
    count = cut.ranks.count
    parts = _packed(sizes, cut) if cut.packed else _padded(sizes, cut)
    return [parts[first : first + count] for first in range(0, len(parts), count)]


def _padded(sizes: Sequence[int], cut: Cut) -> list[Rows]:
    return [[[item] for item in part] for part in balanced(sizes, cut.micro_batches * cut.ranks.count)]


def _packed(sizes: Sequence[int], cut: Cut) -> list[Rows]:
    """As few rows as best-fit needs, levelled to about equal length; every part gets as many of them.

    Best-fit fills its rows one after the other and leaves the last one nearly empty. The same number of rows
    with the sequences spread evenly over them are all shorter instead, so that hardly a position is padding.
    """
    parts = cut.micro_batches * cut.ranks.count
    capacity = cut.row_tokens or max(sizes)
    packed = collate.bins(sizes, capacity)
    even = levelled(sizes, -(-len(packed) // parts) * parts)
    rows = even if max(_total(row, sizes) for row in even) <= capacity else packed
    rows = sorted((row for row in rows if row), key=lambda row: (-_total(row, sizes), row))
    return [rows[part::parts] for part in range(parts)]


def unit_layout(units: Sequence[Sequence[int]], cut: Cut) -> list[list[Rows]]:
    """As `layout`, for units of several sequences that stay together in one part.

    The sequences of all units, whose sizes are given, are numbered through. Parts are balanced by the tokens of
    their units, and each is packed by itself.
    """
    if all(len(unit) == 1 for unit in units):
        return layout([unit[0] for unit in units], cut)
    count, sizes = cut.ranks.count, [size for unit in units for size in unit]
    firsts = list(accumulate(map(len, units), initial=0))
    parts = []
    for part in balanced([sum(unit) for unit in units], cut.micro_batches * count):
        numbers = [number for unit in part for number in range(firsts[unit], firsts[unit + 1])]
        parts.append(_part_rows(numbers, sizes, cut) if numbers else [])
    return [parts[first : first + count] for first in range(0, len(parts), count)]


def _part_rows(numbers: Sequence[int], sizes: Sequence[int], cut: Cut) -> Rows:
    """The rows of one part: packed as few as best-fit needs, levelled where they stay within the capacity."""
    if not cut.packed:
        return [[number] for number in numbers]
    own, capacity = [sizes[number] for number in numbers], cut.row_tokens or max(sizes)
    rows = collate.bins(own, capacity)
    even = levelled(own, len(rows))
    fits = max(_total(row, own) for row in even) <= capacity
    return [[numbers[item] for item in row] for row in (even if fits else rows)]


def levelled(sizes: Sequence[int], rows: int) -> list[list[int]]:
    """Spreads items over `rows` rows of about equal totals: the largest first, each into the emptiest row."""
    held: list[list[int]] = [[] for _ in range(rows)]
    totals = [(0, row) for row in range(rows)]
    for item in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        total, row = totals[0]
        held[row].append(item)
        heapreplace(totals, (total + sizes[item], row))
    return held


def _total(row: Sequence[int], sizes: Sequence[int]) -> int:
    return sum(sizes[item] for item in row)


def build(step: Batch, rows: Rows, cut: Cut) -> Batch:
    """One micro-batch of a step, from its part of the layout; an empty one repeats a sequence with weight 0."""
    if not rows:
        shortest = int(collate.lengths(step).argmin())
        return silent(collate.take(step, [shortest]))
    return collate.pack(step, rows) if cut.packed else collate.take(step, [row[0] for row in rows])


def silent(batch: Batch) -> Batch:
    """The same batch with every weight 0: it passes through the network and changes nothing."""
    batch.weights = torch.zeros_like(batch.weights)
    return batch


def micro_batches(step: Batch, cut: Cut) -> list[Batch]:
    """This rank's `cut.micro_batches` batches; over all ranks every sequence of the step stands once."""
    plan = layout(collate.lengths(step).tolist(), cut)
    return [build(step, parts[cut.ranks.index], cut) for parts in plan]


def minibatch_rows(group: Tensor, count: int, generator: torch.Generator) -> list[list[int]]:
    """Divides the sequences of a rollout into `count` optimiser steps, whole groups together, in random order.

    Where there are fewer groups than steps, groups are divided too; with still fewer sequences the last steps are
    empty.
    """
    units = [(group == g).nonzero().squeeze(-1).tolist() for g in group.unique().tolist()]
    if len(units) < count:
        units = [[row] for row in range(len(group))]
    order = torch.randperm(len(units), generator=generator)
    return [
        sorted(row for unit in part.tolist() for row in units[unit])
        for part in torch.tensor_split(order, count)
    ]


def standing(position: int, cut: Cut) -> dict[str, int]:
    """A position in micro-batches as a checkpoint keeps it: whole steps, and micro-batches of a begun one."""
    k = cut.micro_batches
    return {"steps": position // k, "begun": position % k, "micro_batches": k}


def position_of(state: Mapping[str, int], cut: Cut) -> int:
    """The inverse of `standing`, for a cut into another number of micro-batches too.

    Raises:
        InputError: if the checkpoint was written within a step and the number of micro-batches has changed.
    """
    if state["begun"] and state["micro_batches"] != cut.micro_batches:
        raise InputError(
            f"the checkpoint was written after {state['begun']} of {state['micro_batches']} micro-batches of a step; "
            f"go on with accumulate_grad_batches {state['micro_batches']} (got {cut.micro_batches})"
        )
    return state["steps"] * cut.micro_batches + state["begun"]
