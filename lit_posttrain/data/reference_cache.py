"""The reference's log-probs of every token of a table: computed once, verified whenever they are read again.

They are named by what they were made from: the table and the reference. What is found under the name of another
reference is never used.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from lit_posttrain import interruption
from lit_posttrain.batches import TokenBatch
from lit_posttrain.data.sealed import DamagedCache, SealedFolders, cache_folder, opened, require
from lit_posttrain.data.units import UnitRows, side_by_side
from lit_posttrain.errors import InputError
from lit_posttrain.ranks import Ranks

log = logging.getLogger(__name__)

VERSION = 1
ARRAY = "logprobs.bin"


@dataclass(frozen=True)
class ReferenceCache:
    """Where the reference's log-probs are kept.

    Args:
        folder: Of all of them; `lit-posttrain/reference` in the user's cache folder by default. It may be deleted
            at any time between runs.
        name: Names these log-probs in the folder, with the split behind it. They are then used or refused: log-probs
            of another reference or table under this name stop the run. Without it they are named by what they
            were made from, and computed where there are none.
        batch_tokens: About so many tokens, padding included, are scored at once.
    """

    folder: str | None = None
    name: str | None = None
    batch_tokens: int = 8192

    def __post_init__(self) -> None:
        if self.batch_tokens < 1:
            raise InputError(f"reference_cache.batch_tokens must be at least 1 (got {self.batch_tokens})")

    def of_split(self, split: str) -> "ReferenceCache":
        """The settings for one split: the tables of others stand under names of their own."""
        return self if self.name is None else replace(self, name=f"{self.name}-{split}")


@runtime_checkable
class ReferenceScorer(Protocol):
    """A method with a reference that does not change."""

    device: Any

    def reference_digest(self) -> str:
        """A text that is another one for other log-probs: it names the weights and the precision."""
        ...

    def score_reference(self, batch: TokenBatch) -> Tensor:
        """The reference's log-probs (B, T) in nats, without a graph, of a batch on the method's device.

        It may be collective: every rank calls it equally often.
        """
        ...


def reference_logprobs(
    units: UnitRows, scorer: ReferenceScorer, settings: ReferenceCache, *, pad_id: int, ranks: Ranks
) -> np.ndarray:
    """Log-probs (tokens,) float32 of all units end to end, mapped into memory; 0 where no token is under the mask.

    Collective: every rank computes its share of them, one writes, all read.

    Raises:
        InputError: if those under a given name are of another reference or table, or the folder cannot be used.
    """
    made_from = {"table": units.digest, "reference": scorer.reference_digest()}
    store = SealedFolders(
        cache_folder(settings.folder, "reference"), "reference_cache.folder", "reference log-probs"
    )
    place = store.folder / (settings.name or _name(made_from))
    tokens = int(units.lengths.sum())
    writes = ranks.alone or torch.distributed.get_rank() == 0
    with store.lock(place.name) if writes else nullcontext():
        found = _found(place, made_from, tokens, strict=settings.name is not None)
        if all(there for _, there in ranks.gather_all(found is not None)):
            assert found is not None
            return found
        rank_zero_info(f"the reference's log-probs of {tokens:,} tokens are computed, and kept in {place}")
        scored = _scored(units, scorer, settings.batch_tokens, pad_id, ranks)
        _write(store, place.name, made_from, units.lengths, scored, writes=writes)
    ranks.gather_all(None)  # nobody reads before all is written
    found = _found(place, made_from, tokens, strict=True)
    if found is None:
        raise InputError(
            f"this process cannot read {place}, which the first one wrote; set reference_cache.folder to a folder "
            "that all of them share"
        )
    return found


def _name(made_from: dict[str, str]) -> str:
    return hashlib.blake2b(json.dumps([VERSION, made_from]).encode(), digest_size=16).hexdigest()


def _found(place: Path, made_from: dict[str, str], tokens: int, *, strict: bool) -> np.ndarray | None:
    """The array at a place; None where there is none, or, unless `strict`, one that cannot be used."""
    if not place.is_dir():
        return None
    try:
        content = opened(place)
        require(content["version"] == VERSION, f"it is of version {content['version']}, not {VERSION}")
        require(set(content["files"]) == {Path(ARRAY).stem}, f"it holds {sorted(content['files'])}")
        found = {name: str(content[name]) for name in made_from}
    except (DamagedCache, OSError, ValueError, KeyError, TypeError) as error:
        log.warning("the cached log-probs in %s cannot be used and are computed anew: %s", place, error)
        return None
    other = [f"{name} {found[name]!r}, not {made}" for name, made in made_from.items() if found[name] != made]
    if other and strict:
        raise InputError(
            f"the cached log-probs in {place} belong to another {' and '.join(o.split()[0] for o in other)}: they are "
            f"of {'; of '.join(other)}. Set another reference_cache.name, or remove that folder"
        )
    if other:
        log.warning(
            "the cached log-probs in %s are of %s; they are computed anew", place, "; of ".join(other)
        )
        return None
    array = np.memmap(place / ARRAY, dtype="<f4", mode="r")
    return array if len(array) == tokens else None


def _scored(
    units: UnitRows, scorer: ReferenceScorer, batch_tokens: int, pad_id: int, ranks: Ranks
) -> Iterator[list[tuple[int, np.ndarray]]]:
    """The rows that all ranks have just scored, with their log-probs, end to end."""
    plan = _plan(units.lengths, batch_tokens)
    for first in range(0, len(plan), ranks.count):
        interruption.safe_point()
        number = first + ranks.index
        mine = _rows_scored(units, scorer, plan[min(number, len(plan) - 1)], pad_id)
        shares = ranks.gather(mine if number < len(plan) else [])
        yield [one for share in shares for one in share]


def _plan(lengths: np.ndarray, batch_tokens: int) -> list[list[int]]:
    """Rows in batches of neighbouring lengths."""
    plan: list[list[int]] = []
    held = 0
    for row in np.argsort(lengths, kind="stable").tolist():
        if not plan or held + lengths[row] > batch_tokens:
            plan.append([])
            held = 0
        plan[-1].append(row)
        held += int(lengths[row])
    return plan


def _rows_scored(
    units: UnitRows, scorer: ReferenceScorer, rows: Sequence[int], pad_id: int
) -> list[tuple[int, np.ndarray]]:
    held = [units.unit(row) for row in rows]
    members = [member for unit in held for member in unit]
    batch = side_by_side(members, pad_id)
    batch.weights = batch.mask.float()
    with torch.no_grad():
        values = scorer.score_reference(batch.to(scorer.device)).float().cpu()
    values = torch.where(batch.mask, values, 0.0)
    if not bool(values.isfinite().all()):
        raise InputError(
            "the reference gives log-probs that are not finite; check its weights and the precision"
        )
    flat = iter(value[: len(member)].numpy() for value, member in zip(values, members, strict=True))
    return [(row, np.concatenate([next(flat) for _ in unit])) for row, unit in zip(rows, held, strict=True)]


def _write(
    store: SealedFolders,
    name: str,
    made_from: dict[str, str],
    lengths: np.ndarray,
    scored: Iterator[list[tuple[int, np.ndarray]]],
    *,
    writes: bool,
) -> None:
    """Takes in what is scored; the process that writes seals it."""
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    with store.draft(name) if writes else nullcontext() as draft:
        if draft is None:
            for _ in scored:
                pass
            return
        array = np.memmap(draft / ARRAY, dtype="<f4", mode="w+", shape=(int(starts[-1]),))
        for rows in scored:
            for row, values in rows:
                array[starts[row] : starts[row + 1]] = values
        array.flush()
        del array
        store.put(draft, name, {"version": VERSION, **made_from})
