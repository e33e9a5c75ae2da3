"""Units: what stays together in one micro-batch, such as both sides of a pair, and how it stands in a table.

A unit is a row of a `TokenTable`: its sequences end to end, and `values` of every token. A number where no token is
under the mask begins a sequence and is what is known of all of it: a margin, a target, whether it is wanted. Under
the mask a number is the label of that token, such as that of a step which ends there; NaN is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lit_posttrain import collate
from lit_posttrain.batches import TokenBatch
from lit_posttrain.data.chunks import Chunk
from lit_posttrain.data.token_table import JoinedTable


@dataclass(frozen=True)
class Member:
    """One sequence of a unit: `ids` int32, `mask` bool and `values` float32, all (tokens,).

    `prompt_tokens` is where its completion begins.
    """

    ids: np.ndarray
    mask: np.ndarray
    values: np.ndarray
    prompt_tokens: int

    @classmethod
    def of(
        cls,
        ids: Sequence[int],
        mask: Sequence[bool],
        value: float = 0.0,
        *,
        prompt_tokens: int | None = None,
        labels: Sequence[float] = (),
    ) -> "Member":
        """A sequence of which `value` is known; `labels` are those of its tokens under the mask, NaN where unknown.

        The completion begins with the first token under the mask where nothing else is said.
        """
        marked = np.array(mask, np.bool_)
        values = np.full(len(ids), np.nan, np.float32)
        values[0] = value
        if len(labels):
            values[marked] = labels
        start = int(marked.argmax()) if prompt_tokens is None else prompt_tokens
        return cls(np.array(ids, np.int32), marked, values, start)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def value(self) -> float:
        """What is known of the whole sequence."""
        return float(self.values[0])

    @property
    def prompt(self) -> np.ndarray:
        """The ids before the completion."""
        return self.ids[: self.prompt_tokens]

    @property
    def completion(self) -> np.ndarray:
        """The ids of the completion."""
        return self.ids[self.prompt_tokens :]

    def cut(self, prompt_tokens: int, completion_tokens: int, bos: int | None = None) -> "Member":
        """The last tokens of the prompt, behind `bos` if it began with that, and the first of the completion."""
        begin = self.prompt_tokens - prompt_tokens
        end = self.prompt_tokens + completion_tokens
        places = np.arange(begin, min(end, len(self)))
        if begin and bos is not None and self.ids[0] == bos:
            places[0] = 0
        values = self.values[places]
        values[0] = self.value
        return Member(self.ids[places], self.mask[places], values, prompt_tokens)

    def behind(self, prompt: np.ndarray, most_tokens: int) -> "Member":
        """The completion behind another prompt, its end cut where both have more than `most_tokens` tokens."""
        kept = slice(self.prompt_tokens, self.prompt_tokens + max(1, most_tokens - len(prompt)))
        before = np.full(len(prompt), np.nan, np.float32)
        before[0] = self.value
        return Member(
            np.concatenate([prompt, self.ids[kept]]),
            np.concatenate([np.zeros(len(prompt), np.bool_), self.mask[kept]]),
            np.concatenate([before, self.values[kept]]),
            len(prompt),
        )

    @property
    def labels(self) -> int:
        """Tokens with a label."""
        return int((self.mask & ~np.isnan(self.values)).sum())


Unit = list[Member]


def side_by_side(members: Sequence[Member], pad_id: int) -> TokenBatch:
    """Sequences as a batch with one of them per row; weights are 0."""
    ids: list[Any] = [member.ids for member in members]
    masks: list[Any] = [member.mask for member in members]
    return collate.from_lists(ids, masks, pad_id)


def as_unit_chunk(kept: Sequence[Unit], came: Sequence[int]) -> Chunk:
    """Units as arrays; `came` are the lengths of the longest sequence of all, those too that were not kept.

    `counts` are tokens under the mask, or labels where a unit has some.
    """
    members = [member for unit in kept for member in unit]
    return Chunk(
        _joined([member.ids for member in members], np.int32),
        _joined([member.mask for member in members], np.bool_),
        None,
        np.array([sum(map(len, unit)) for unit in kept], np.int32),
        np.array([sum(m.labels or int(m.mask.sum()) for m in unit) for unit in kept], np.float64),
        np.array(came, np.int32),
        _joined([member.values for member in members], np.float32),
    )


def _joined(parts: Sequence[np.ndarray], kind: Any) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, kind)


@runtime_checkable
class UnitRows(Protocol):
    """Units by number.

    `lengths` are the tokens of each, `counts` what counts in it, `longest` the tokens of the longest sequence;
    `digest` names them all.
    """

    @property
    def lengths(self) -> np.ndarray: ...

    @property
    def counts(self) -> np.ndarray: ...

    @property
    def longest(self) -> int: ...

    @property
    def digest(self) -> str: ...

    def __len__(self) -> int: ...

    def unit(self, row: int) -> Unit:
        """The sequences of one unit."""
        ...


class UnitTable:
    """Tables of units, read as one.

    Args:
        table: Rows with values.
    """

    def __init__(self, table: JoinedTable) -> None:
        self.table, self.lengths, self.counts, self.digest = table, table.lengths, table.counts, table.digest

    def __len__(self) -> int:
        return len(self.table)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(int(_sizes(table.mask, table.values).max()) for table in self.table.tables if len(table))

    def unit(self, row: int) -> Unit:
        """The sequences of one unit, copied out of the table."""
        table, number = self.table.place(row)
        assert table.values is not None
        span = slice(table.starts[number], table.starts[number + 1])
        ids, mask, values = (np.array(part[span]) for part in (table.ids, table.mask, table.values))
        ends = np.cumsum(_sizes(mask, values))
        return [
            Member(ids[a:b], mask[a:b], values[a:b], int(mask[a:b].argmax()))
            for a, b in zip([0, *ends[:-1]], ends, strict=True)
        ]


def _sizes(mask: np.ndarray, values: np.ndarray | None) -> np.ndarray:
    """Tokens of each sequence of one or more units."""
    assert values is not None
    starts = np.flatnonzero(~mask & ~np.isnan(values))
    return np.diff(starts, append=len(mask))
