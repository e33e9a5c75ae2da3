"""Intervals against known truths, and the published claim about power laws."""

import numpy as np
from scipy.optimize import least_squares

from lit_posttrain.scaling.fit import fit
from lit_posttrain.scaling.points import make_points
from lit_posttrain.scaling.sigmoid import sigmoid
from lit_posttrain.scaling.simulate import Truth, simulated_run


def test_intervals_cover_the_truth():
    rng = np.random.default_rng(11)
    covered_a, covered_double = [], []
    for seed in range(40):
        ends = rng.choice([2.0, 4.0, 8.0])
        r_0 = rng.uniform(0.05, 0.4)
        truth = Truth(r_0, r_0 + rng.uniform(0.2, 0.5), 1.0, rng.lognormal(np.log(1.6), 0.3), 200, 4)
        points = simulated_run(truth, np.linspace(0, ends, 16), seed)
        fitted = fit(points, level=0.9)
        covered_a.append(fitted.a.low <= truth.a <= fitted.a.high)
        double = fitted.forecast.at_double
        covered_double.append(double.low <= truth.accuracy(2 * ends) <= double.high)
    assert np.mean(covered_a) >= 0.8
    assert np.mean(covered_double) >= 0.8


def power_law_forecast(compute, accuracy, target):
    """A - D / C^B by bounded least squares from several starts, without R_0: asymptote and forecast."""
    log_c = np.log(compute / compute[-1])

    def residual(theta):
        return theta[0] - theta[1] * np.exp(-theta[2] * log_c) - accuracy

    starts = [(0.7, 0.1, b) for b in (0.1, 0.3, 1.0, 2.0)]
    fits = [least_squares(residual, start, bounds=([0, 0, 0.01], [1, 5, 8])) for start in starts]
    a, d, b = min(fits, key=lambda one: one.cost).x
    return a, a - d * (target / compute[-1]) ** -b


def test_sigmoid_with_a_pinned_start_extrapolates_where_a_power_law_does_not():
    """ScaleRL's 8B run (A .645, B 1.70, C_mid near 11000 GPU-hours), fitted to 50k, forecast at 100k.

    Published for the windows from 1.5k and from 5k: a power law gives A = 1.0 and 0.74, the sigmoid
    .645 on both (arXiv:2510.13786, A.4). R_0 is not published: 0.35 is ours, and so is the noise of 0.004.
    """
    rng = np.random.default_rng(5)
    compute = np.linspace(1500, 50_000, 37)
    accuracy = sigmoid(compute, 0.35, 0.645, 11_000, 1.70) + rng.normal(0, 0.004, 37)
    truth = sigmoid(100_000, 0.35, 0.645, 11_000, 1.70)
    for start in (1500, 5000):
        used = compute >= start
        law_a, law = power_law_forecast(compute[used], accuracy[used], 100_000)
        pinned_c, pinned_y = np.append(0, compute[used]), np.append(0.35, accuracy[used])
        fitted = fit(make_points(pinned_c, pinned_y, np.full(len(pinned_c), 0.004**2), 1000, 16))
        sigmoid_error = abs(fitted.forecast.at_double.median - truth)
        assert law_a > 0.70
        assert abs(fitted.a.median - 0.645) < 0.02
        assert sigmoid_error < 0.015
        assert abs(law - truth) > 2 * sigmoid_error
