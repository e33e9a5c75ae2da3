"""Padding and packing into the batch types.

Everything starts from a batch with one sequence per row, padded on the right; `take` and `pack` choose rows of
it. Both move every field that the batch type declares, so that new nouns need no code here.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import fields
from typing import TypeVar

import torch
from torch import Tensor

from lit_posttrain.batches import TokenBatch

Batch = TypeVar("Batch", bound=TokenBatch)


def from_lists(ids: Sequence[Sequence[int]], masks: Sequence[Sequence[bool]], pad_id: int) -> TokenBatch:
    """One row per sequence, padded on the right with `pad_id`; the first token of a sequence is never under mask.

    Raises:
        ValueError: if there is no sequence, or one is empty.
    """
    lengths = [len(row) for row in ids]
    if not lengths or min(lengths) == 0:
        raise ValueError(
            f"cannot collate {len(lengths)} sequences of lengths {lengths[:8]}: need at least one token each"
        )
    rows, width = len(ids), max(lengths)
    input_ids = torch.full((rows, width), pad_id, dtype=torch.int64)
    mask = torch.zeros(rows, width, dtype=torch.bool)
    for row, (tokens, marked) in enumerate(zip(ids, masks, strict=True)):
        input_ids[row, : lengths[row]] = torch.as_tensor(tokens, dtype=torch.int64)
        mask[row, : lengths[row]] = torch.as_tensor(marked, dtype=torch.bool)
    mask[:, 0] = False
    return TokenBatch(input_ids, *_layout(torch.tensor(lengths), width), mask, torch.zeros(rows, width))


def _layout(lengths: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Segments 1..S and position ids of one right-padded sequence per row."""
    columns = torch.arange(width)
    real = columns < lengths[:, None]
    segments = torch.arange(1, len(lengths) + 1)[:, None] * real
    return segments, columns.expand(len(lengths), width).clone()


def lengths(batch: TokenBatch) -> Tensor:
    """Tokens of each row of a one-sequence-per-row batch, (B,)."""
    return (batch.segments > 0).sum(dim=1)


def take(batch: Batch, rows: Sequence[int]) -> Batch:
    """The chosen rows of a one-sequence-per-row batch, trimmed to the longest of them, segments renumbered."""
    index = torch.as_tensor(list(rows), dtype=torch.int64)
    width = int(lengths(batch)[index].max()) if len(index) else 0
    chosen = {}
    for f in fields(batch):
        value, per = getattr(batch, f.name), f.metadata.get("per")
        chosen[f.name] = value[index] if isinstance(value, Tensor) and per else value
        if isinstance(value, Tensor) and per == "token":
            chosen[f.name] = chosen[f.name][:, :width].contiguous()
    numbers = torch.arange(1, len(index) + 1)[:, None]
    chosen["segments"] = numbers * (chosen["segments"] > 0)
    return type(batch)(**chosen)


def bins(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Packs items of the given sizes into bins of `capacity`, best-fit decreasing; no item is split.

    Raises:
        ValueError: if an item is larger than a bin.
    """
    too_long = [i for i, size in enumerate(sizes) if size > capacity]
    if too_long:
        raise ValueError(
            f"{len(too_long)} sequences exceed the row capacity {capacity}: longest {max(sizes)} tokens"
        )
    packed: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free, bin), sorted
    for item in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        place = bisect_left(room, (sizes[item], -1))
        if place == len(room):
            free, chosen = capacity, len(packed)
            packed.append([])
        else:
            free, chosen = room.pop(place)
        packed[chosen].append(item)
        insort(room, (free - sizes[item], chosen))
    return packed


def pack(batch: Batch, rows: Sequence[Sequence[int]]) -> Batch:
    """Packs sequences of a one-sequence-per-row batch: output row i holds the input rows `rows[i]` in order."""
    sizes = lengths(batch)
    order = [source for row in rows for source in row]
    totals = [int(sizes[list(row)].sum()) for row in rows]
    width = max(totals)
    source_row = torch.zeros(len(rows), width, dtype=torch.int64)
    source_column = torch.zeros_like(source_row)
    segments = torch.zeros_like(source_row)
    number = 0
    for out, row in enumerate(rows):
        start = 0
        for source in row:
            stop, number = start + int(sizes[source]), number + 1
            source_row[out, start:stop] = source
            source_column[out, start:stop] = torch.arange(stop - start)
            segments[out, start:stop] = number
            start = stop
    return _gather(batch, order, source_row, source_column, segments)


def _gather(
    batch: Batch, order: list[int], source_row: Tensor, source_column: Tensor, segments: Tensor
) -> Batch:
    real = segments > 0
    moved = {}
    for f in fields(batch):
        value, per = getattr(batch, f.name), f.metadata.get("per")
        if isinstance(value, Tensor) and per == "token":
            moved[f.name] = torch.where(
                real, value[source_row, source_column], torch.zeros((), dtype=value.dtype)
            )
        elif isinstance(value, Tensor) and per == "sequence":
            moved[f.name] = value[torch.as_tensor(order)]
        else:
            moved[f.name] = value
    moved["segments"] = segments
    moved["position_ids"] = source_column * real
    return type(batch)(**moved)


def concatenate(batches: Sequence[Batch], pad_id: int = 0) -> Batch:
    """Stacks one-sequence-per-row batches of the same type, padding all to the widest."""
    first, width = batches[0], max(batch.input_ids.shape[1] for batch in batches)
    joined = {}
    for f in fields(first):
        values, per = [getattr(batch, f.name) for batch in batches], f.metadata.get("per")
        if not isinstance(values[0], Tensor) or not per:
            joined[f.name] = values[0]
        elif per == "token":
            fill = pad_id if f.name == "input_ids" else 0
            padded = [torch.nn.functional.pad(v, (0, width - v.shape[1]), value=fill) for v in values]
            joined[f.name] = torch.cat(padded)
        else:
            joined[f.name] = torch.cat(values)
    rows = torch.arange(1, joined["segments"].shape[0] + 1)[:, None]
    joined["segments"] = rows * (joined["segments"] > 0)
    joined["position_ids"] = torch.arange(width).expand_as(joined["segments"]).clone()
    return type(first)(**joined)


def write_back(target: Batch, rows: Sequence[int], source: Batch, names: Sequence[str]) -> None:
    """Copies per-token fields of a padded or packed batch to the rows of `target` that it was made from.

    `rows` names, for each sequence of `source` in order, its row of the one-sequence-per-row batch `target`.
    """
    index = torch.as_tensor(list(rows))
    real = target.segments[index] > 0
    for name in names:
        values = getattr(source, name)
        if values is None:
            continue
        if getattr(target, name) is None:
            setattr(target, name, torch.zeros(target.input_ids.shape, dtype=values.dtype))
        chosen = getattr(target, name)[index]
        chosen[real] = values[source.segments > 0].to(chosen)
        getattr(target, name)[index] = chosen
