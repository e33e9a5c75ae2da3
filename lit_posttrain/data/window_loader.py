"""The loader of streamed data: tokenised and planned window by window, sized by what an epoch is declared to hold."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lit_posttrain.batches import TokenBatch
from lit_posttrain.contracts import TokenWeights
from lit_posttrain.data.chunks import Chunk, Gathered
from lit_posttrain.data.loader import StepBuilder
from lit_posttrain.data.order import EpochOrder, StepSize
from lit_posttrain.data.sources.streaming import Streaming
from lit_posttrain.data.steps import Cut, position_of, standing
from lit_posttrain.data.tokenising import CHUNK_ROWS, Tokenising, chunks_of
from lit_posttrain.errors import InputError


@dataclass
class Place:
    """Where window `number` begins: in the chunk from row `row` of the split on, after its first `kept` kept rows."""

    number: int = 0
    row: int = 0
    kept: int = 0


class WindowLoader:
    """Yields this rank's micro-batches of every optimiser step of an epoch of streamed rows.

    Args:
        source: The stream.
        work: What becomes of a row.
        batch_sequences: Sequences of one optimiser step; the last step of an epoch may hold fewer.
        cut: How a step is cut into micro-batches.
        weighting: How tokens are weighed within a step.
        seed: Of the order within each window.
        workers: Processes that tokenise ahead; 0 = in this process.
    """

    def __init__(
        self,
        source: Streaming,
        work: Tokenising,
        *,
        batch_sequences: int,
        cut: Cut,
        weighting: TokenWeights,
        seed: int,
        workers: int = 0,
    ) -> None:
        self.source, self.work, self.cut = source, work, cut
        self.batch_sequences, self.seed, self.workers = batch_sequences, seed, workers
        self.builder = StepBuilder(cut, weighting, work.text.pad_id)
        self.window_steps = -(-source.window // batch_sequences)
        self.steps = -(-source.rows_per_epoch // batch_sequences)
        self.epoch = 0
        self.position = 0
        self.place = Place()

    def __len__(self) -> int:
        return self.steps * self.cut.micro_batches

    def __iter__(self) -> Iterator[TokenBatch]:
        if self.position >= len(self):
            self.epoch, self.position, self.place = self.epoch + 1, 0, Place()
        for window, place in self._windows(self.place):
            self.place = place
            for batch, position in self._batches(window, place.number):
                if position > self.position:
                    self.position = position
                    yield batch

    def _batches(self, window: Gathered, number: int) -> Iterator[tuple[TokenBatch, int]]:
        """The micro-batches of a window, each with the position after it."""
        table, k = window.table(), self.cut.micro_batches
        order = EpochOrder(
            table.lengths, StepSize(self.batch_sequences), seed=self.seed, name=f"window {number}"
        )
        for step, rows in enumerate(order.epoch(self.epoch), number * self.window_steps):
            if (step + 1) * k <= self.position:
                continue
            batches = self.builder.step(table, rows.tolist(), table.lengths, table.counts)
            for inner, batch in enumerate(batches):
                yield batch, step * k + inner + 1

    def _windows(self, begin: Place) -> Iterator[tuple[Gathered, Place]]:
        """The windows from a place on, each with its own."""
        size = self.window_steps * self.batch_sequences
        chunks = self._chunks(begin)
        held: list[tuple[Chunk, Place]] = []
        for number in range(begin.number, -(-self.steps // self.window_steps)):
            wanted = min(size, self.source.rows_per_epoch - number * size)
            window, first = Gathered(), None
            while window.rows < wanted:
                chunk, place = held.pop() if held else self._next(chunks, number * size + window.rows)
                first = first or Place(number, place.row, place.kept)
                taken, rest = chunk.divided(wanted - window.rows)
                window.add(taken)
                if len(rest.lengths):
                    held.append((rest, Place(number, place.row, place.kept + len(taken.lengths))))
            assert first is not None
            yield window, first

    def _next(self, chunks: Iterator[tuple[Chunk, Place]], rows: int) -> tuple[Chunk, Place]:
        found = next(chunks, None)
        if found is None:
            raise InputError(
                f"the stream ran dry after {rows} rows of an epoch of {self.source.rows_per_epoch}; set "
                "rows_per_epoch to at most what there is"
            )
        return found

    def _chunks(self, place: Place) -> Iterator[tuple[Chunk, Place]]:
        """The chunks of an epoch from a place on."""
        rows = self.source.rows("train", place.row)
        for number, chunk in enumerate(chunks_of(rows, self.work, self.workers)):
            row = place.row + number * CHUNK_ROWS
            over = self.work.limit.over(chunk.came)
            if len(over) and self.work.limit.policy == "error":
                raise InputError(
                    f"row {row + int(over[0])} of {self.work.limit.name!r} has {chunk.came[over[0]]} tokens, more "
                    f"than {self.work.limit.max_tokens}; raise the limit, or set too_long to 'skip' or 'cut'"
                )
            begun = place.kept if not number else 0
            if len(chunk.lengths) > begun:
                yield chunk.divided(begun)[1], Place(place.number, row, begun)

    def state_dict(self) -> dict[str, Any]:
        """Epoch, position in it, and where the window in use begins."""
        return {"epoch": self.epoch, **standing(self.position, self.cut), "window": asdict(self.place)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken, also with another number of micro-batches or ranks."""
        self.epoch, self.position = state["epoch"], position_of(state, self.cut)
        self.place = Place(**state["window"])
