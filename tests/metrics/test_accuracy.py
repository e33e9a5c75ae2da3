import math

import numpy as np
import pytest

from lit_posttrain.errors import InputError
from lit_posttrain.metrics import accuracy_statistics, over_problems


def test_hand_worked_counts():
    # shares 1/2, 1, 0 of two samples each
    found = accuracy_statistics([1, 2, 0], [2, 2, 2])
    assert found.accuracy == pytest.approx(0.5, abs=1e-12)
    assert found.standard_error == pytest.approx(
        math.sqrt(0.25 / 3), abs=1e-12
    )  # variance of (1/2, 1, 0) is 1/4
    assert found.within_variance == pytest.approx(0.25 / 1 / 9, abs=1e-12)
    assert found.standard_error_fixed == pytest.approx(1 / 6, abs=1e-12)
    assert (found.problems, found.unknown_problems, found.correct, found.graded) == (3, 0, 3, 6)


def test_ungraded_samples_are_left_out_and_counted():
    # the second problem has no graded sample, the third only two of its four
    found = accuracy_statistics([2, 0, 1], [4, 0, 2])
    assert found.accuracy == pytest.approx(0.5, abs=1e-12)
    assert (found.problems, found.unknown_problems, found.graded) == (2, 1, 6)
    assert found.within_variance == pytest.approx((0.25 / 3 + 0.25 / 1) / 4, abs=1e-12)


def test_a_single_graded_sample_takes_the_spread_of_the_others():
    # spread of the first: p(1-p) k/(k-1) = 1/4 * 2 = 1/2; the second has one sample and gets 1/2 / 1
    found = accuracy_statistics([1, 1], [2, 1])
    assert found.within_variance == pytest.approx((0.5 / 2 + 0.5) / 4, abs=1e-12)


def test_errors_are_those_of_repeated_draws():
    random = np.random.default_rng(0)
    p, k, n = random.beta(0.6, 0.4, size=100), 4, 100
    counts = random.binomial(k, p, size=(4000, n))
    found = [accuracy_statistics(row.tolist(), [k] * n) for row in counts[:400]]
    fixed = (counts / k).mean(axis=1).var()
    assert np.mean([f.within_variance for f in found]) == pytest.approx(fixed, rel=0.08)
    new = [random.binomial(k, random.beta(0.6, 0.4, size=n)).mean() / k for _ in range(4000)]
    assert np.mean([f.standard_error**2 for f in found]) == pytest.approx(np.var(new), rel=0.15)


def test_nothing_graded_is_unknown_and_not_zero():
    found = accuracy_statistics([0, 0], [0, 0])
    assert math.isnan(found.accuracy)
    assert math.isnan(found.within_variance)
    assert found.unknown_problems == 2
    assert math.isnan(over_problems([1.0]).standard_error)


def test_impossible_counts_are_refused():
    with pytest.raises(InputError, match="0 <= correct <= graded"):
        accuracy_statistics([3], [2])
