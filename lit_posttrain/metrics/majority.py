"""Accuracy of a majority vote among k samples, averaged over all k-subsets of the n that were drawn."""

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from lit_posttrain.errors import InputError
from lit_posttrain.metrics.pass_at_k import check_k

MOST_SAMPLES = 1000
"""Binomials of more samples than this do not fit a float64."""


def majority_at_k(keys: Sequence[str | None], correct: Sequence[bool], k: int) -> float:
    """The chance that the most frequent answer among k samples is correct.

    Exact, without resampling. Ties are broken evenly among the tied answers. A sample without an answer key
    takes up its place among the k but does not vote; if nobody votes the result is wrong. Where a grader
    calls only some samples of an answer correct, winning with it counts as their share.

    Args:
        keys: Canonical answer of each sample, or None where it states none.
        correct: Whether each sample is correct.
        k: Voters, at most n.

    Raises:
        InputError: if not 1 <= k <= n <= 1000, or the two differ in length.
    """
    n = len(keys)
    check_k(n, k)
    if len(correct) != n:
        raise InputError(f"{n} answer keys and {len(correct)} grades; give one grade for each key.")
    if n > MOST_SAMPLES:
        raise InputError(
            f"majority@k of {n} samples; at most {MOST_SAMPLES} can be counted without overflow."
        )
    right: dict[str, list[bool]] = defaultdict(list)
    for key, is_correct in zip(keys, correct, strict=True):
        if key is not None:
            right[key].append(is_correct)
    silent = n - sum(map(len, right.values()))
    subsets = math.comb(n, k)
    total = 0.0
    for key, grades in right.items():
        if any(grades):
            others = [len(other) for name, other in right.items() if name != key]
            total += _wins(len(grades), others, silent, k) / subsets * (sum(grades) / len(grades))
    return total


def _wins(votes: int, others: Sequence[int], silent: int, k: int) -> float:
    """k-subsets that an answer with `votes` samples wins; a win shared with t others counts 1/(t+1)."""
    total = 0.0
    for j in range(1, min(votes, k) + 1):
        ways = _ways(others, silent, k - j, j)
        total += math.comb(votes, j) * sum(count / (tied + 1) for tied, count in enumerate(ways))
    return total


def _ways(others: Sequence[int], silent: int, taken: int, cap: int) -> np.ndarray:
    """Ways to take `taken` samples from the others and the silent, none above `cap`, by how many stand at it.

    Returns:
        float64 (t + 1,): entry t counts the ways in which exactly t of the others have `cap` samples.
    """
    most_tied = min(taken // cap, sum(count >= cap for count in others))
    table = np.zeros((taken + 1, most_tied + 1))
    few = min(silent, taken)
    table[: few + 1, 0] = [math.comb(silent, i) for i in range(few + 1)]
    for count in others:
        grown = np.zeros_like(table)
        for i in range(min(count, cap, taken) + 1):
            source = table[: taken + 1 - i]
            if i < cap:
                grown[i:] += math.comb(count, i) * source
            else:
                grown[i:, 1:] += math.comb(count, i) * source[:, :-1]
        table = grown
    return table[taken]
