"""How long the data is, and what happens to rows that do not fit."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lit_posttrain.batches import Problem
from lit_posttrain.errors import InputError
from lit_posttrain.text import TokenizedExample

TooLong = Literal["error", "skip", "cut"]
QUANTILES = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


@dataclass(frozen=True)
class DataReport:
    """What a split holds. `lengths` are in tokens and of all rows that came; `tokens` are of the kept rows.

    `too_long` rows were longer than `max_tokens` (0 = no limit); `policy` says what became of them.
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


def fit_to_length(
    examples: Sequence[TokenizedExample], max_tokens: int, policy: TooLong, *, name: str = "data"
) -> tuple[list[TokenizedExample], DataReport]:
    """The examples of at most `max_tokens` tokens (0 = no limit), and what there was.

    Longer ones are left out under `skip`. Under `cut` they keep their first `max_tokens` tokens, so they end
    without an end token: the model is not taught to stop there.

    Raises:
        InputError: if one does not fit and the policy is `error`, or `cut` would leave nothing of an answer.
    """
    lengths = [len(example.ids) for example in examples]
    _check(lengths, max_tokens, policy, name)
    chosen = [
        i for i, length in enumerate(lengths) if policy == "cut" or not max_tokens or length <= max_tokens
    ]
    kept = [_cut(examples[i], max_tokens, name, i) for i in chosen]
    answers = sum(example.answer_tokens for example in kept)
    return kept, _told(lengths, [len(e.ids) for e in kept], answers, max_tokens, policy, name)


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
    lengths = [len(tokens(problem)) for problem in problems]
    _check(lengths, max_tokens, policy, name)
    fits = [i for i, length in enumerate(lengths) if not max_tokens or length <= max_tokens]
    kept = problems if len(fits) == len(lengths) else [problems[i] for i in fits]
    return kept, _told(lengths, [lengths[i] for i in fits], 0, max_tokens, policy, name)


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
        f"  length in tokens: {lengths}; {limit}"
    )


def quantiles(lengths: Sequence[int]) -> dict[str, int]:
    """The smallest length that is not below this share of all (nearest rank); empty without lengths."""
    ordered = sorted(lengths)
    ranks = {name: max(math.ceil(share * len(ordered)) - 1, 0) for name, share in QUANTILES.items()}
    return {name: ordered[rank] for name, rank in ranks.items()} if ordered else {}


def _check(lengths: Sequence[int], max_tokens: int, policy: TooLong, name: str) -> None:
    if policy not in ("error", "skip", "cut"):
        raise InputError(
            f"there is no policy {policy!r} for rows that are too long; choose error, skip or cut"
        )
    over = [i for i, length in enumerate(lengths) if max_tokens and length > max_tokens]
    if over and policy == "error":
        longest = max(over, key=lambda i: lengths[i])
        raise InputError(
            f"{len(over)} of {len(lengths)} rows of {name!r} have more than {max_tokens} tokens; the longest "
            f"is row {longest} with {lengths[longest]}. Raise the limit, or set too_long to 'skip' or 'cut'"
        )
    if over and len(over) == len(lengths) and policy == "skip":
        raise InputError(
            f"all {len(lengths)} rows of {name!r} have more than {max_tokens} tokens; raise the limit"
        )


def _cut(example: TokenizedExample, max_tokens: int, name: str, row: int) -> TokenizedExample:
    if not max_tokens or len(example.ids) <= max_tokens:
        return example
    if not any(example.mask[:max_tokens]):
        raise InputError(
            f"cutting row {row} of {name!r} ({len(example.ids)} tokens) to {max_tokens} leaves nothing of "
            "its answer; raise the limit or set too_long to 'skip'"
        )
    return TokenizedExample(example.ids[:max_tokens], example.mask[:max_tokens])


def _told(
    came: Sequence[int], kept: Sequence[int], answers: int, max_tokens: int, policy: TooLong, name: str
) -> DataReport:
    over = sum(1 for length in came if max_tokens and length > max_tokens)
    return DataReport(
        name, len(came), len(kept), sum(kept), answers, quantiles(came), max_tokens, over, policy
    )


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
