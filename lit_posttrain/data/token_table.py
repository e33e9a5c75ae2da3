"""Tokenised sequences as flat arrays, in memory or in files that are mapped into it."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from lit_posttrain import collate
from lit_posttrain.batches import TokenBatch

BYTES_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class TokenTable:
    """Tokenised sequences, end to end: `ids` int32 and `mask` bool of all tokens, `starts` (rows + 1,).

    `scale`, float32 of all tokens, is a factor on each token's weight; None means 1 for every token under the
    mask. `counts` (rows,) is the sum of the scales under the mask of each sequence, whose first token is never
    predicted. `fingerprint` is the digest, where it is known already.

    Where a row is a unit of several sequences, `values`, float32 of all tokens, says where they begin and what is
    known of them (`units.py`).
    """

    ids: np.ndarray
    mask: np.ndarray
    starts: np.ndarray
    counts: np.ndarray
    scale: np.ndarray | None = None
    fingerprint: str = ""
    values: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        ids: Sequence[Sequence[int]],
        masks: Sequence[Sequence[bool]],
        scales: Sequence[Sequence[float] | None] = (),
    ) -> "TokenTable":
        """From one list of ids, of mask values and, where there are any, of scales per sequence."""
        starts = np.concatenate([[0], np.cumsum([len(row) for row in ids], dtype=np.int64)])
        tokens = int(starts[-1])
        flat_ids = np.fromiter((token for row in ids for token in row), np.int32, tokens)
        mask = np.fromiter((marked for row in masks for marked in row), np.bool_, tokens)
        scale = None
        if any(row is not None for row in scales):
            pairs = zip(masks, scales, strict=True)
            flat = (value for row, given in pairs for value in (row if given is None else given))
            scale = np.fromiter(flat, np.float32, tokens)
        return cls(flat_ids, mask, starts, counts_of(mask, starts, scale), scale)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def digest(self) -> str:
        """16 hex digits of all tokens, masks, scales, values and boundaries."""
        optional = [part for part in (self.scale, self.values) if part is not None]
        parts = [self.ids, self.mask, self.starts, *optional]
        return self.fingerprint or joined_digest([array_digest(part) for part in parts])

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence."""
        return np.diff(self.starts)

    def sequence(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Ids, mask and scales (None: all 1) of one sequence, copied out of the table."""
        span = slice(self.starts[row], self.starts[row + 1])
        scale = None if self.scale is None else np.array(self.scale[span])
        return np.array(self.ids[span]), np.array(self.mask[span]), scale

    def batch(self, rows: Sequence[int], pad_id: int) -> TokenBatch:
        """The chosen sequences, one per row; `weights` holds each token's scale."""
        return batch_of([self.sequence(row) for row in rows], pad_id)


class JoinedTable:
    """Several tables one after the other, read as one.

    Args:
        tables: The tables.
    """

    def __init__(self, tables: Sequence[TokenTable]) -> None:
        self.tables = tables
        self.firsts = np.concatenate([[0], np.cumsum([len(table) for table in tables], dtype=np.int64)])
        self.lengths = np.concatenate([table.lengths for table in tables])
        self.counts = np.concatenate([table.counts for table in tables])

    def __len__(self) -> int:
        return int(self.firsts[-1])

    @property
    def digest(self) -> str:
        """16 hex digits of all of them; of one table its own."""
        digests = [table.digest for table in self.tables]
        return digests[0] if len(digests) == 1 else joined_digest(digests)

    def batch(self, rows: Sequence[int], pad_id: int) -> TokenBatch:
        """The chosen sequences, one per row; `weights` holds each token's scale."""
        places = [self.place(row) for row in rows]
        return batch_of([table.sequence(row) for table, row in places], pad_id)

    def place(self, row: int) -> tuple[TokenTable, int]:
        """The table that a row stands in, and its number there."""
        owner = int(np.searchsorted(self.firsts, row, side="right")) - 1
        return self.tables[owner], int(row - self.firsts[owner])


Sequences = Iterable[tuple[np.ndarray, np.ndarray, np.ndarray | None]]


def batch_of(sequences: Sequences, pad_id: int) -> TokenBatch:
    """Ids, mask and scales of sequences as a batch with one of them per row; `weights` holds the scales."""
    ids, masks, scales = zip(*sequences, strict=True)
    batch = collate.from_lists(ids, masks, pad_id)
    batch.weights = batch.mask.float()
    for row, scale in enumerate(scales):
        if scale is not None:
            batch.weights[row, : len(scale)] *= torch.from_numpy(scale)
    return batch


def counts_of(mask: np.ndarray, starts: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    """The sum of the scales under the mask of each sequence, (rows,); int64 where there are no scales."""
    values = mask if scale is None else np.where(mask, scale, 0)
    sums = np.cumsum(values, dtype=np.int64 if scale is None else np.float64)
    before = np.concatenate([np.zeros(1, sums.dtype), sums])
    return before[starts[1:]] - before[starts[:-1] + 1]


def array_digest(array: np.ndarray) -> str:
    """16 hex digits of an array's bytes."""
    whole = hashlib.blake2b(digest_size=8)
    flat = array.reshape(-1)
    step = max(1, BYTES_AT_ONCE // array.itemsize)
    for first in range(0, len(flat), step):
        whole.update(flat[first : first + step].tobytes())
    return whole.hexdigest()


def joined_digest(digests: Iterable[str]) -> str:
    """16 hex digits of several digests in order."""
    return hashlib.blake2b("\n".join(digests).encode(), digest_size=8).hexdigest()
