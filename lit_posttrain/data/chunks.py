"""Tokenised rows on their way to a table: chunks of them, gathered in memory or written to files."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lit_posttrain.data.report import DataReport, LengthLimit
from lit_posttrain.data.token_table import TokenTable
from lit_posttrain.loss_mask import TokenizedExample


@dataclass(frozen=True)
class Chunk:
    """Tokenised rows, end to end: `ids` int32, `mask` bool and, where a token's is not 1, `scale` float32; of units
    (`units.py`) also `values` float32.

    `lengths` int32 and `counts` float64 (the sum of the scales under the mask) are of each kept row; `came` int32
    are the lengths of all rows that came.
    """

    ids: np.ndarray
    mask: np.ndarray
    scale: np.ndarray | None
    lengths: np.ndarray
    counts: np.ndarray
    came: np.ndarray
    values: np.ndarray | None = None

    def scales(self) -> np.ndarray:
        """The scale of each token, 0 outside the mask."""
        return self.mask.astype(np.float32) if self.scale is None else self.scale

    def divided(self, rows: int) -> tuple["Chunk", "Chunk"]:
        """The first `rows` kept rows, and the others; what came is not divided, and stands in neither."""
        tokens = int(self.lengths[:rows].sum())
        first, rest = slice(tokens), slice(tokens, None)
        return self._part(first, slice(rows)), self._part(rest, slice(rows, None))

    def _part(self, tokens: slice, rows: slice) -> "Chunk":
        scale = None if self.scale is None else self.scale[tokens]
        values = None if self.values is None else self.values[tokens]
        ids, mask = self.ids[tokens], self.mask[tokens]
        return Chunk(ids, mask, scale, self.lengths[rows], self.counts[rows], self.came[:0], values)


def as_chunk(kept: list[TokenizedExample], came: list[int]) -> Chunk:
    """Examples as arrays; `came` are the lengths of all, those too that were not kept."""
    lengths = np.array([len(example.ids) for example in kept], np.int32)
    tokens = int(lengths.sum())
    ids = np.fromiter((token for one in kept for token in one.ids), np.int32, tokens)
    mask = np.fromiter((marked for one in kept for marked in one.mask), np.bool_, tokens)
    values = [one.mask if one.scale is None else one.scale for one in kept]
    scale = None
    if any(one.scale is not None for one in kept):
        scale = np.fromiter((value for row in values for value in row), np.float32, tokens) * mask
    counts = np.array([sum(row[1:]) for row in values], np.float64)
    return Chunk(ids, mask, scale, lengths, counts, np.array(came, np.int32))


class Tally:
    """What is known of all chunks without their tokens: a few bytes for each row."""

    def __init__(self) -> None:
        self.lengths: list[np.ndarray] = []
        self.counted: list[np.ndarray] = []
        self.came: list[np.ndarray] = []
        self.rows = self.tokens = self.answers = 0
        self.scaled = self.valued = False

    def add(self, chunk: Chunk) -> None:
        """One more chunk."""
        self.lengths.append(chunk.lengths)
        self.counted.append(chunk.counts)
        self.came.append(chunk.came)
        self.rows += len(chunk.lengths)
        self.tokens += len(chunk.ids)
        self.answers += int(chunk.mask.sum())
        self.scaled |= chunk.scale is not None
        self.valued |= chunk.values is not None

    def starts(self) -> np.ndarray:
        """Where each sequence begins, and the end of the last, (rows + 1,) int64."""
        return np.concatenate([[0], np.cumsum(np.concatenate(self.lengths), dtype=np.int64)])

    def counts(self) -> np.ndarray:
        """The sum of the scales of each sequence, (rows,); int64 where there are no scales."""
        return np.concatenate(self.counted).astype(np.float64 if self.scaled else np.int64)

    def report(self, limit: LengthLimit) -> DataReport:
        """The report on all rows.

        Raises:
            InputError: if one does not fit and the policy is `error`.
        """
        came = np.concatenate(self.came)
        limit.check(came)
        return limit.told(came, kept=self.rows, tokens=self.tokens, answer_tokens=self.answers)


class Gathered(Tally):
    """Chunks in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.chunks: list[Chunk] = []

    def add(self, chunk: Chunk) -> None:
        """One more chunk."""
        super().add(chunk)
        self.chunks.append(chunk)

    def handed_over(self, rest: Iterator[Chunk]) -> Iterator[Chunk]:
        """All chunks, those in memory first, which are then forgotten."""
        while self.chunks:
            yield self.chunks.pop(0)
        yield from rest

    def table(self) -> TokenTable:
        """A table in memory."""
        ids = np.concatenate([chunk.ids for chunk in self.chunks])
        mask = np.concatenate([chunk.mask for chunk in self.chunks])
        scale = np.concatenate([chunk.scales() for chunk in self.chunks]) if self.scaled else None
        values = [chunk.values for chunk in self.chunks if chunk.values is not None]
        joined = np.concatenate(values) if self.valued else None
        return TokenTable(ids, mask, self.starts(), self.counts(), scale, values=joined)


def write(folder: Path, chunks: Iterator[Chunk]) -> Tally:
    """Writes the arrays of a table into files, chunk by chunk; scales and values only if there are any."""
    tally = Tally()
    with ExitStack() as stack:
        names = ("ids", "mask", "scale", "values")
        ids, mask, scale, values = (
            stack.enter_context((folder / f"{name}.bin").open("wb")) for name in names
        )
        for chunk in chunks:
            tally.add(chunk)
            ids.write(chunk.ids.tobytes())
            mask.write(chunk.mask.tobytes())
            scale.write(chunk.scales().tobytes())
            if chunk.values is not None:
                values.write(chunk.values.tobytes())
    tally.starts().tofile(folder / "starts.bin")
    tally.counts().tofile(folder / "counts.bin")
    for name, used in (("scale", tally.scaled), ("values", tally.valued)):
        if not used:
            (folder / f"{name}.bin").unlink()
    return tally
