import math
from itertools import combinations, product

import pytest

from lit_posttrain.errors import InputError
from lit_posttrain.metrics import best_of_k, pass_at_k


def test_hand_worked_values():
    # 4 samples, 1 correct, pairs: 3 of the 6 pairs hold it
    assert pass_at_k(4, 1, 2) == pytest.approx(0.5, abs=1e-12)
    assert pass_at_k(4, 0, 4) == 0.0
    assert pass_at_k(4, 3, 2) == 1.0


@pytest.mark.parametrize("n", range(1, 9))
def test_equals_the_average_over_all_subsets(n):
    for correct in range(n + 1):
        samples = [True] * correct + [False] * (n - correct)
        for k in range(1, n + 1):
            subsets = list(combinations(samples, k))
            expected = sum(any(subset) for subset in subsets) / len(subsets)
            assert pass_at_k(n, correct, k) == pytest.approx(expected, abs=1e-12)


def test_is_unbiased_over_binomial_counts():
    n, k, p = 8, 3, 0.3
    mean = sum(math.comb(n, c) * p**c * (1 - p) ** (n - c) * pass_at_k(n, c, k) for c in range(n + 1))
    assert mean == pytest.approx(1 - (1 - p) ** k, abs=1e-12)


def test_thousands_of_samples_stay_exact():
    exact = 1 - math.comb(9_990, 100) / math.comb(10_000, 100)
    assert pass_at_k(10_000, 10, 100) == pytest.approx(exact, rel=1e-11)


def test_more_than_was_drawn_is_refused():
    with pytest.raises(InputError, match="k = 5 cannot be estimated from 4 samples"):
        pass_at_k(4, 1, 5)
    with pytest.raises(InputError, match="5 correct of 4"):
        pass_at_k(4, 5, 1)


@pytest.mark.parametrize("n", range(1, 6))
def test_best_of_k_equals_the_average_over_all_subsets(n):
    for scores in product((0.0, 0.5, 1.0), repeat=n):
        values = [float(i % 2) for i in range(n)]
        for k in range(1, n + 1):
            expected = []
            for subset in combinations(range(n), k):
                top = max(scores[i] for i in subset)
                tied = [values[i] for i in subset if scores[i] == top]
                expected.append(sum(tied) / len(tied))
            assert best_of_k(scores, values, k) == pytest.approx(sum(expected) / len(expected), abs=1e-12)
