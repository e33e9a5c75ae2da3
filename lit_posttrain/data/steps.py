"""Cuts one optimiser step into micro-batches and fills its weights.

The cut is the same for every method: choose the sequences of the step, balance them over k micro-batches by
tokens, pad or pack each, and let a `TokenWeights` say how much every token counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from lit_posttrain import collate
from lit_posttrain.batches import TokenBatch
from lit_posttrain.contracts import TokenWeights

Batch = TypeVar("Batch", bound=TokenBatch)


@dataclass(frozen=True)
class Cut:
    """How a step becomes micro-batches.

    Args:
        micro_batches: k, the number of micro-batches; equal to the trainer's `accumulate_grad_batches`.
        packed: Pack several sequences into a row instead of padding each to the longest.
        row_tokens: Tokens that a packed row holds; 0 means as many as the longest sequence of the step.
    """

    micro_batches: int = 1
    packed: bool = False
    row_tokens: int = 0


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


def weigh(batch: TokenBatch, weighting: TokenWeights, group: Tensor | None = None) -> None:
    """Fills `weights` of a one-sequence-per-row batch that is one whole optimiser step.

    Without `group` every sequence is its own.
    """
    counts = batch.mask.sum(dim=1)
    groups = torch.arange(len(counts)) if group is None else group
    batch.weights = weighting(counts, groups)[:, None] * batch.mask


def layout(sizes: Sequence[int], cut: Cut) -> list[list[list[int]]]:
    """For each micro-batch its rows, for each row the sequences in it; every sequence stands exactly once.

    Where there are fewer sequences than micro-batches, the last micro-batches are empty.
    """
    parts = balanced(sizes, cut.micro_batches)
    if not cut.packed:
        return [[[item] for item in part] for part in parts]
    capacity = cut.row_tokens or max(sizes)
    return [
        [[part[i] for i in row] for row in collate.bins([sizes[i] for i in part], capacity)] for part in parts
    ]


def build(step: Batch, rows: list[list[int]], cut: Cut) -> Batch:
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
    """Exactly `cut.micro_batches` batches that hold every sequence of the step once, with its weights."""
    return [build(step, rows, cut) for rows in layout(collate.lengths(step).tolist(), cut)]


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
