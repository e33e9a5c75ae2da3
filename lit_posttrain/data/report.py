"""How long the data is, and what happens to rows that do not fit."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lit_posttrain.batches import Problem
from lit_posttrain.errors import InputError
from lit_posttrain.text import TokenizedExample

TooLong = Literal["error", "skip", "cut"]
QUANTILES = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


@dataclass(frozen=True)
class DataReport:
    """What a split holds. `lengths` are in tokens and of all rows that came; `tokens` are of the kept rows.

    `too_long` rows were longer than `max_tokens` (0 = no limit); `policy` says what became of them. `note` says
    where the tokens are from, if they were not just made.
    """

    name: str
    rows: int
    kept: int
    tokens: int
    answer_tokens: int
    lengths: dict[str, int]
    max_tokens: int
    too_long: int
    policy: str
    note: str = ""


@dataclass(frozen=True)
class LengthLimit:
    """The longest sequence allowed, and what becomes of longer ones.

    Args:
        max_tokens: 0 means no limit.
        policy: `error`, `skip` or `cut`.
        name: What messages call the data.
    """

    policies: ClassVar[tuple[str, ...]] = get_args(TooLong)

    max_tokens: int
    policy: str
    name: str = "data"

    def __post_init__(self) -> None:
        if self.policy not in self.policies:
            raise InputError(
                f"there is no policy {self.policy!r} for rows that are too long; choose {' or '.join(self.policies)}"
            )

    def fitted(self, example: TokenizedExample, row: int) -> TokenizedExample | None:
        """The example as it is kept, None where it is left out; under `error` it is kept until `check`.

        Raises:
            InputError: if cutting would leave nothing of an answer.
        """
        if not self.max_tokens or len(example.ids) <= self.max_tokens or self.policy == "error":
            return example
        if self.policy == "skip":
            return None
        if not any(example.mask[: self.max_tokens]):
            raise InputError(
                f"cutting row {row} of {self.name!r} ({len(example.ids)} tokens) to {self.max_tokens} leaves "
                "nothing of its answer; raise the limit or set too_long to 'skip'"
            )
        scale = None if example.scale is None else example.scale[: self.max_tokens]
        return TokenizedExample(example.ids[: self.max_tokens], example.mask[: self.max_tokens], scale)

    def over(self, lengths: Sequence[int] | np.ndarray) -> np.ndarray:
        """The rows that are too long."""
        lengths = np.asarray(lengths)
        return np.flatnonzero(lengths > self.max_tokens) if self.max_tokens else np.empty(0, np.int64)

    def check(self, lengths: Sequence[int] | np.ndarray) -> None:
        """Judges the lengths of all rows that came.

        Raises:
            InputError: if one does not fit and the policy is `error`, or all are to be left out.
        """
        lengths, over = np.asarray(lengths), self.over(lengths)
        if len(over) and self.policy == "error":
            longest = int(over[lengths[over].argmax()])
            raise InputError(
                f"{len(over)} of {len(lengths)} rows of {self.name!r} have more than {self.max_tokens} tokens; "
                f"the longest is row {longest} with {lengths[longest]}. Raise the limit, or set too_long to "
                f"{' or '.join(map(repr, self.policies[1:]))}"
            )
        if len(over) and len(over) == len(lengths) and self.policy == "skip":
            raise InputError(
                f"all {len(lengths)} rows of {self.name!r} have more than {self.max_tokens} tokens; raise the "
                "limit"
            )

    def told(
        self, came: Sequence[int] | np.ndarray, *, kept: int, tokens: int, answer_tokens: int
    ) -> DataReport:
        """The report on rows of these lengths, of which `kept` were kept, with `tokens` tokens."""
        lengths, over = quantiles(came), len(self.over(came))
        return DataReport(
            self.name, len(came), kept, tokens, answer_tokens, lengths, self.max_tokens, over, self.policy
        )


def fit_to_length(
    examples: Sequence[TokenizedExample], max_tokens: int, policy: TooLong, *, name: str = "data"
) -> tuple[list[TokenizedExample], DataReport]:
    """The examples of at most `max_tokens` tokens (0 = no limit), and what there was.

    Longer ones are left out under `skip`. Under `cut` they keep their first `max_tokens` tokens, so they end
    without an end token: the model is not taught to stop there.

    Raises:
        InputError: if one does not fit and the policy is `error`, or `cut` would leave nothing of an answer.
    """
    limit = LengthLimit(max_tokens, policy, name)
    lengths = [len(example.ids) for example in examples]
    limit.check(lengths)
    fitted = [limit.fitted(example, row) for row, example in enumerate(examples)]
    kept = [example for example in fitted if example is not None]
    answers = sum(example.answer_tokens for example in kept)
    tokens = sum(len(example.ids) for example in kept)
    return kept, limit.told(lengths, kept=len(kept), tokens=tokens, answer_tokens=answers)


def check_lengths(
    problems: Sequence[Problem],
    tokens: Callable[[Problem], Sequence[int]],
    max_tokens: int,
    policy: TooLong,
    *,
    name: str = "data",
) -> tuple[Sequence[Problem], DataReport]:
    """The problems whose prompts have at most `max_tokens` tokens (0 = no limit), and what there was.

    Where all fit, the sequence itself comes back, so that a lazy one stays lazy.

    Raises:
        InputError: if one does not fit and the policy is `error`, or for `cut`: a cut prompt asks for
            something else.
    """
    if policy == "cut":
        raise InputError(
            "a prompt cannot be cut, since it would ask something else; choose 'error' or 'skip'"
        )
    limit = LengthLimit(max_tokens, policy, name)
    lengths = [len(tokens(problem)) for problem in problems]
    limit.check(lengths)
    fits = [i for i, length in enumerate(lengths) if not max_tokens or length <= max_tokens]
    kept = problems if len(fits) == len(lengths) else [problems[i] for i in fits]
    return kept, limit.told(lengths, kept=len(fits), tokens=sum(lengths[i] for i in fits), answer_tokens=0)


@rank_zero_only
def report(told: DataReport) -> None:
    """Prints the report."""
    print(as_text(told))


def as_text(told: DataReport) -> str:
    """The report in two lines: what there is, and how long it is."""
    answers = f", {told.answer_tokens:,} of them answers" if told.answer_tokens else ""
    lengths = ", ".join(f"{name} {length:,}" for name, length in told.lengths.items())
    limit = f"{told.too_long:,} over {told.max_tokens:,} ({told.policy})" if told.max_tokens else "no limit"
    return (
        f"{told.name}: {told.rows:,} rows, {told.kept:,} kept, {told.tokens:,} tokens{answers}\n"
        f"  length in tokens: {lengths}; {limit}{f'; {told.note}' if told.note else ''}"
    )


def quantiles(lengths: Sequence[int] | np.ndarray) -> dict[str, int]:
    """The smallest length that is not below this share of all (nearest rank); empty without lengths."""
    ordered = np.sort(np.asarray(lengths))
    ranks = {name: max(math.ceil(share * len(ordered)) - 1, 0) for name, share in QUANTILES.items()}
    return {name: int(ordered[rank]) for name, rank in ranks.items()} if len(ordered) else {}


def entry(source: object, split: str, digest: str, told: DataReport) -> dict[str, str]:
    """A split as a dataset entry of a tracked run: name, source, digest, context and profile."""
    context = {"train": "training", "validation": "validation"}.get(split, split)
    profile = {"rows": told.kept, "tokens": told.tokens, "lengths": told.lengths, "too_long": told.too_long}
    return {
        "name": f"{type(source).__name__}-{split}",
        "source": repr(source)[:500],
        "digest": digest,
        "context": context,
        "profile": json.dumps(profile),
    }
