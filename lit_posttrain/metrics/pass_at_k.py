"""Unbiased estimates of what k samples would reach, from n samples of the same problem."""

import math
from collections.abc import Sequence

from lit_posttrain.errors import InputError


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The chance that at least one of k samples is correct: 1 - C(n-c, k) / C(n, k).

    The average over all k-subsets of the n samples that were drawn, hence unbiased; the plug-in
    1 - (1 - c/n)^k is too low. Worked in log space, so that n in the thousands is exact to rounding.

    Args:
        samples: n, graded samples of one problem.
        correct: c, how many of them are correct.
        k: Size of the imagined attempt, at most n.

    Raises:
        InputError: if not 0 <= c <= n and 1 <= k <= n.

    Source: Chen et al. 2021, arXiv:2107.03374, section 2.1.
    """
    check_k(samples, k)
    if not 0 <= correct <= samples:
        raise InputError(
            f"{correct} correct of {samples} samples is impossible; expected 0 <= correct <= samples."
        )
    wrong = samples - correct
    if wrong < k:
        return 1.0
    return -math.expm1(math.fsum(math.log1p(-k / i) for i in range(wrong + 1, samples + 1)))


def best_of_k(scores: Sequence[float], values: Sequence[float], k: int) -> float:
    """Mean value of the sample with the highest score among k, over all k-subsets of the n that were drawn.

    With `values` the correctness this is the accuracy of best-of-k under the scorer; with `values` the scores
    themselves, the expected highest score. Equal scores share their win evenly.

    Args:
        scores: What the choice is made by, one per sample.
        values: What the chosen sample is worth, one per sample.
        k: Size of the imagined attempt, at most n.

    Raises:
        InputError: if not 1 <= k <= n, or the two differ in length.
    """
    n = len(scores)
    check_k(n, k)
    if len(values) != n:
        raise InputError(f"{n} scores and {len(values)} values; give one value for each score.")
    below, expected = 0, 0.0
    for score in sorted(set(scores)):
        tied = [value for s, value in zip(scores, values, strict=True) if s == score]
        wins = math.comb(below + len(tied), k) - math.comb(below, k)
        expected += wins / math.comb(n, k) * math.fsum(tied) / len(tied)
        below += len(tied)
    return expected


def check_k(samples: int, k: int) -> None:
    """Refuses a k that n samples cannot speak of.

    Raises:
        InputError: if not 1 <= k <= n.
    """
    if not 1 <= k <= samples:
        raise InputError(
            f"k = {k} cannot be estimated from {samples} samples of a problem; "
            f"draw more samples or ask for a k from 1 to {samples}."
        )
