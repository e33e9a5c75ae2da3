"""Rows to tokens, a chunk at a time, in this process or in several others; the order is that of the rows."""

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol

from lit_posttrain import interruption
from lit_posttrain.contracts import ProblemSource
from lit_posttrain.data.chunks import Chunk, as_chunk
from lit_posttrain.data.formats import Conversation, TextRow
from lit_posttrain.data.report import LengthLimit
from lit_posttrain.errors import InputError
from lit_posttrain.loss_mask import LossOn, TokenizedExample
from lit_posttrain.text import ChatText

CHUNK_ROWS = 500
AHEAD = 4
"""Chunks that wait for each worker, so that none is idle and few are in memory."""


class Work(Protocol):
    """What becomes of the rows of a source."""

    @property
    def text(self) -> ChatText: ...

    @property
    def limit(self) -> LengthLimit: ...

    @property
    def settings(self) -> str:
        """What the tokens depend on beside the tokenizer and the length limit."""
        ...

    def named(self, name: str) -> "Work":
        """The same for data of this name."""
        ...

    def rows(self, source: ProblemSource, split: str) -> Iterable[Any]:
        """The rows of a source that are read."""
        ...

    def __call__(self, first: int, rows: list[Any]) -> Chunk:
        """A chunk of rows, of which the first has number `first`."""
        ...


@dataclass(frozen=True)
class Tokenising:
    """What becomes of a row: its ids, which of them count, and whether it fits.

    Args:
        text: Tokenizer and template.
        loss: What counts.
        limit: The longest sequence allowed.
    """

    text: ChatText
    loss: LossOn
    limit: LengthLimit

    @property
    def settings(self) -> str:
        """What the tokens depend on beside the tokenizer and the length limit."""
        return repr(self.loss)

    def named(self, name: str) -> "Tokenising":
        """The same for data of this name."""
        return replace(self, limit=replace(self.limit, name=name))

    def rows(self, source: ProblemSource, split: str) -> Iterable[Any]:
        """The conversations of a source."""
        return source.chats(split)

    def __call__(self, first: int, rows: list[Any]) -> Chunk:
        """A chunk of rows, of which the first has number `first`.

        Raises:
            InputError: with the number of a row that cannot be tokenised.
        """
        came, kept = [], []
        for number, row in enumerate(rows, first):
            example = self._example(number, row)
            came.append(len(example.ids))
            fitted = self.limit.fitted(example, number)
            if fitted is not None:
                kept.append(fitted)
        return as_chunk(kept, came)

    def _example(self, number: int, row: Any) -> TokenizedExample:
        try:
            return tokenise(row, self.text, self.loss)
        except InputError as error:
            raise InputError(f"row {number} of {self.limit.name!r}: {error}") from error


def tokenise(row: Any, text: ChatText, loss: LossOn) -> TokenizedExample:
    """A row of a source as tokens: a text, a conversation, or the list of its messages."""
    if isinstance(row, TextRow):
        return text.text_example(row.text)
    if isinstance(row, Conversation):
        return text.example(row.messages, tools=row.tools, loss=loss)
    return text.example(row, loss=loss)


def chunks_of(rows: Iterable[Any], work: Work, workers: int) -> Iterator[Chunk]:
    """The chunks of all rows, in order; with `workers` = 0 made in this process.

    Raises:
        InputError: of the first row that cannot be tokenised, or if a worker dies.
    """
    numbered = _numbered(rows)
    if not workers:
        for first, some in numbered:
            interruption.safe_point()
            yield work(first, some)
        return
    head = list(islice(numbered, 2))
    if len(head) < 2:  # too little to start processes for
        yield from (work(first, some) for first, some in head)
        return
    yield from _in_processes(_chained(head, numbered), work, workers)


def _chained(head: list[tuple[int, list[Any]]], rest: Iterator[Any]) -> Iterator[tuple[int, list[Any]]]:
    yield from head
    yield from rest


def _numbered(rows: Iterable[Any]) -> Iterator[tuple[int, list[Any]]]:
    iterator, first = iter(rows), 0
    while some := list(islice(iterator, CHUNK_ROWS)):
        yield first, some
        first += len(some)


def _in_processes(numbered: Iterator[tuple[int, list[Any]]], work: Work, workers: int) -> Iterator[Chunk]:
    fork = "fork" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if fork else "spawn")  # a fork has all imports already
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(work, os.getpid()))
    waiting: deque[Future[Chunk]] = deque()
    try:
        for first, some in numbered:
            with warnings.catch_warnings():  # Python 3.12 warns of forks beside threads; workers take no lock
                warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
                waiting.append(pool.submit(_work, first, some))
            if len(waiting) >= workers * AHEAD:
                interruption.safe_point()
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise InputError(
            "a process that tokenises rows died, perhaps for lack of memory; lower preparation.workers (0 = none)"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_own: list[Work] = []


def _begin(work: Work, parent: int) -> None:
    """The start of a worker: signals are the parent's business, and it does not outlive the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()
    _own[:] = [work]


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _work(first: int, rows: list[Any]) -> Chunk:
    return _own[0](first, rows)
