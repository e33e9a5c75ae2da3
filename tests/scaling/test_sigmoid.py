import numpy as np
import pytest

from lit_posttrain.scaling.sigmoid import log_compute, rise, sigmoid


def test_values_worked_by_hand():
    # (C_mid/C)^B = 4 at half of C_mid with B = 2: share 1/5; at C_mid one half; at 2 C_mid 1/(1 + 1/4) = 4/5
    values = sigmoid(np.array([0.0, 5.0, 10.0, 20.0]), 0.2, 0.7, 10.0, 2.0)
    np.testing.assert_allclose(values, [0.2, 0.3, 0.45, 0.6], rtol=0, atol=1e-12)


def test_published_curve_at_its_midpoint():
    # ScaleRL, batch 2048: A .645, C_mid 10909; with R_0 .35 the midpoint is (.35 + .645) / 2
    assert sigmoid(10909.0, 0.35, 0.645, 10909.0, 1.70) == pytest.approx(0.4975, abs=1e-12)


def test_extremes_do_not_overflow():
    values = sigmoid(np.array([0.0, 1e-300, 1e300]), 0.1, 0.9, 1e18, 10.0)
    np.testing.assert_allclose(values, [0.1, 0.1, 0.9], rtol=0, atol=1e-12)


def test_tail_is_a_power_law():
    # for C >> C_mid: A - R = (A - R_0) (C_mid / C)^B
    assert 0.9 - sigmoid(1e4, 0.1, 0.9, 1.0, 2.0) == pytest.approx(0.8e-8, rel=1e-6)


def test_broadcasts_over_parameters():
    shares = rise(log_compute([0.0, 1.0]), np.zeros((3, 1)), np.array([[1.0], [2.0], [3.0]]))
    np.testing.assert_allclose(shares, [[0, 0.5]] * 3, rtol=0, atol=1e-12)
