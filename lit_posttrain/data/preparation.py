"""From a source to a table of tokens: made once, then read from a cache on disk."""

import hashlib
import json
from collections.abc import Generator, Iterator, Sized
from contextlib import closing
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Protocol, runtime_checkable

from lit_posttrain import __version__
from lit_posttrain.contracts import ProblemSource
from lit_posttrain.data.chunks import Chunk, Gathered, write
from lit_posttrain.data.progress import Progress
from lit_posttrain.data.report import DataReport
from lit_posttrain.data.sources.procedural import ProceduralSource
from lit_posttrain.data.token_cache import TokenCache
from lit_posttrain.data.token_table import TokenTable
from lit_posttrain.data.tokenising import Work, chunks_of
from lit_posttrain.errors import InputError

SMALL_TOKENS = 1 << 20
"""Up to here tokens stay in memory and are not cached, as making them takes a moment only."""
PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Preparation:
    """How rows become tokens.

    Args:
        workers: Processes that tokenise beside this one; 0 = in this process.
        cache_dir: Folder in which tokens are kept for the next run. By default `lit-posttrain/tokens` in the user's
            cache folder, for data of more than a million tokens; where it is given, for all. It may be deleted at
            any time between runs.
    """

    workers: int = 2
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise InputError(f"preparation.workers must be at least 0 (got {self.workers})")


@runtime_checkable
class Fingerprinted(Protocol):
    """A source that knows what its rows are made from, without reading them all."""

    def fingerprint(self, split: str) -> str:
        """A text that changes whenever the rows of the split do."""
        ...


def prepared(
    source: ProblemSource, split: str, work: Work, settings: Preparation
) -> tuple[TokenTable, DataReport]:
    """The tokens of a split and the report on them, from the cache where it has them.

    Raises:
        InputError: if there are no rows, one cannot be tokenised, or one does not fit and may not be left out.
    """
    store = TokenCache.of(settings.cache_dir)
    fingerprint = fingerprint_of(source, split, work)
    found = store.find(fingerprint)
    if found is not None:
        return _from_cache(*found, store)
    with closing(_chunks(source, split, work, settings.workers)) as chunks:
        head = Gathered()
        small = SMALL_TOKENS if settings.cache_dir is None else 0
        for chunk in chunks:
            head.add(chunk)
            if head.tokens > small:
                return _cached(store, fingerprint, head, chunks, work)
    if not head.came:
        raise InputError(f"{type(source).__name__} has no rows in split {split!r}")
    return head.table(), head.report(work.limit)


def fingerprint_of(source: ProblemSource, split: str, work: Work) -> str:
    """32 hex digits that change with anything that the tokens depend on, our own code included."""
    limit = work.limit
    parts = [
        _content(source, split, work),
        split,
        work.text.fingerprint,
        work.settings,
        repr((limit.max_tokens, limit.policy)),
        _code(),
    ]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _content(source: ProblemSource, split: str, work: Work) -> str:
    """What the rows of a split are: told by the source, or a hash of the rows themselves."""
    if isinstance(source, Fingerprinted):
        return f"{type(source).__qualname__} {source.fingerprint(split)}"
    if isinstance(source, ProceduralSource) and type(source).__module__.startswith("lit_posttrain."):
        return repr(source)  # a function of its settings and our code
    whole = hashlib.blake2b(digest_size=16)
    for row in work.rows(source, split):
        plain = [type(row).__name__, asdict(row)] if is_dataclass(row) and not isinstance(row, type) else row
        whole.update(json.dumps(plain, sort_keys=True, default=repr).encode() + b"\n")
    return whole.hexdigest()


@cache
def _code() -> str:
    """Our version, and a hash of the code that rows pass through on their way to tokens."""
    whole = hashlib.blake2b(__version__.encode(), digest_size=8)
    for file in sorted([*PACKAGE.glob("*.py"), *(PACKAGE / "data").rglob("*.py")]):
        whole.update(file.read_bytes())
    return whole.hexdigest()


def _chunks(source: ProblemSource, split: str, work: Work, workers: int) -> Generator[Chunk]:
    rows = work.rows(source, split)
    progress = Progress(work.limit.name, len(rows) if isinstance(rows, Sized) else None)
    try:
        for chunk in chunks_of(rows, work, workers):
            progress.add(len(chunk.came))
            yield chunk
    finally:
        progress.close()


def _cached(
    store: TokenCache, fingerprint: str, head: Gathered, rest: Iterator[Chunk], work: Work
) -> tuple[TokenTable, DataReport]:
    with store.lock(fingerprint):
        found = store.find(fingerprint)
        if found is None:  # no other process was faster
            with store.draft(fingerprint) as draft:
                report = write(draft, head.handed_over(rest)).report(work.limit)
                store.publish(draft, fingerprint, report)
            found = store.find(fingerprint)
            if found is None:
                raise InputError(
                    f"{store.folder} does not keep what is written to it; set preparation.cache_dir"
                )
            return found[0], report
    return _from_cache(*found, store)


def _from_cache(table: TokenTable, report: DataReport, store: TokenCache) -> tuple[TokenTable, DataReport]:
    return table, replace(report, note=f"tokens from the cache in {store.folder}")
