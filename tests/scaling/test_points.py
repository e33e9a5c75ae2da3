import numpy as np
import pytest

from lit_posttrain.scaling.points import ASSUMED_STANDARD_ERROR, make_points, pooled


def test_bad_points_are_dropped_with_the_reason():
    points = make_points([0, 1, -1, np.inf, 3], [0.1, np.nan, 0.2, 0.3, 0.4], [1e-4] * 5, 100, 4)
    assert points.compute.tolist() == [0, 3]
    reasons = [one.reason for one in points.dropped]
    assert reasons == ["accuracy is nan", "compute is negative", "compute is inf"]


def test_points_are_sorted_and_keep_their_columns():
    points = make_points([3, 0, 1], [0.3, 0.1, 0.2], [3e-4, 1e-4, 2e-4], 100, 4, [7, 0, 5])
    assert points.accuracy.tolist() == [0.1, 0.2, 0.3]
    assert points.variance.tolist() == [1e-4, 2e-4, 3e-4]
    assert points.steps.tolist() == [0, 5, 7]
    assert points.measured


def test_measured_zero_variance_becomes_the_resolution_of_one_sample():
    points = make_points([0, 1], [0.0, 0.5], [0.0, 1e-3], 50, 4)
    assert points.variance.tolist() == pytest.approx([1 / 200**2, 1e-3])


def test_one_sample_per_problem_is_binomial():
    points = make_points([0, 1], [0.5, 0.5], [np.nan, np.nan], 100, 1)
    assert points.variance.tolist() == pytest.approx([0.25 / 100] * 2, rel=1e-6)
    assert "binomial" in points.notes[0]


def test_unknown_noise_is_assumed_and_said():
    points = make_points([0, 1], [0.5, 0.6])
    assert points.variance.tolist() == [ASSUMED_STANDARD_ERROR**2] * 2
    assert not points.measured
    assert "assumed" in points.notes[0]


def test_variance_for_new_problems():
    # last point: y = .5, within variance per sample v n k = 1e-4 * 100 * 4 = .04; (.25 - .04) / 100
    points = make_points([0, 1], [0.2, 0.5], [1e-4, 1e-4], 100, 4)
    assert points.between_variance == pytest.approx(0.0021)


def test_change_of_problems_is_said():
    points = make_points([0, 1], [0.2, 0.5], [1e-4, 1e-4], [100, 200], 4)
    assert any("changes" in note for note in points.notes)


def test_pooling_merges_by_compute():
    one = make_points([0, 2], [0.1, 0.3], [1e-4, 1e-4], 100, 4)
    two = make_points([1, np.nan], [0.2, 0.9], [2e-4, 1e-4], 100, 4)
    both = pooled([one, two])
    assert both.accuracy.tolist() == [0.1, 0.2, 0.3]
    assert len(both.dropped) == 1
