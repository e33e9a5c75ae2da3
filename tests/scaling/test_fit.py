import time
from dataclasses import replace

import numpy as np
import pytest

from lit_posttrain.errors import InputError
from lit_posttrain.scaling.fit import fit
from lit_posttrain.scaling.flags import Kind
from lit_posttrain.scaling.points import make_points
from lit_posttrain.scaling.sigmoid import sigmoid
from lit_posttrain.scaling.simulate import Truth, simulated_run


def test_exact_points_give_back_their_parameters():
    compute = np.append(0, np.geomspace(1, 100, 30))
    fitted = fit(make_points(compute, sigmoid(compute, 0.2, 0.7, 10.0, 1.6), [1e-8] * 31, 1000, 16))
    assert fitted.best is not None
    found = [fitted.best.r_0, fitted.best.a, fitted.best.c_mid, fitted.best.b]
    np.testing.assert_allclose(found, [0.2, 0.7, 10.0, 1.6], rtol=1e-3)
    assert fitted.r_squared > 0.9999
    assert fitted.a.median == pytest.approx(0.7, abs=2e-3)


def test_every_number_has_an_ordered_interval(run, truth):
    fitted = fit(run)
    for estimate in (fitted.a, fitted.r_0, fitted.c_mid, fitted.b, fitted.forecast.at_double):
        assert estimate.low < estimate.median < estimate.high
    assert fitted.a.low < truth.a < fitted.a.high
    assert fitted.forecast.gain.median == pytest.approx(
        fitted.forecast.at_double.median - fitted.forecast.at_end.median, abs=2e-3
    )
    assert fitted.band.width.shape == (20,)
    assert fitted.band.coverage >= 0.7
    draws = fitted.draws
    assert np.all((draws.r_0 >= 0) & (draws.r_0 <= draws.a) & (draws.a <= 1))


def test_deterministic_and_fast(run):
    start = time.perf_counter()
    first = fit(run)
    seconds = time.perf_counter() - start
    again = fit(run)
    assert seconds < 1.0
    assert first.a == again.a
    assert first.forecast == again.forecast
    assert fit(run, seed=1).a != first.a


def test_the_unit_of_compute_is_free(run):
    hours = fit(run)
    flops = fit(replace(run, compute=run.compute * 3.7e18))
    for name in ("a", "r_0", "b"):
        one, other = getattr(hours, name), getattr(flops, name)
        assert (one.median, one.low, one.high) == pytest.approx(
            (other.median, other.low, other.high), abs=1e-3
        )
    assert flops.c_mid.median == pytest.approx(hours.c_mid.median * 3.7e18, rel=1e-3)
    assert flops.forecast.at_double.median == pytest.approx(hours.forecast.at_double.median, abs=1e-3)


def test_cap_holds(run):
    capped = fit(run, cap=0.69)
    assert capped.a.high <= 0.69
    assert capped.best.a <= 0.69


def test_interval_grows_with_the_level(run):
    narrow, wide = fit(run, level=0.5), fit(run, level=0.95)
    assert wide.a.low < narrow.a.low < narrow.a.high < wide.a.high


@pytest.mark.parametrize(("level", "cap"), [(0.0, 1.0), (1.0, 1.0), (90.0, 1.0), (0.9, 0.0), (0.9, -1.0)])
def test_impossible_settings(run, level, cap):
    with pytest.raises(InputError):
        fit(run, level=level, cap=cap)


LINE = np.arange(12.0)
DEGENERATE = {
    "none": ([], [], Kind.TOO_FEW_POINTS),
    "one": ([0], [0.2], Kind.TOO_FEW_POINTS),
    "two": ([0, 1], [0.2, 0.3], Kind.TOO_FEW_POINTS),
    "three": ([0, 1, 2], [0.2, 0.3, 0.35], Kind.TOO_FEW_POINTS),
    "four at one place": ([1, 1, 1, 1], [0.2, 0.3, 0.2, 0.1], Kind.TOO_FEW_POINTS),
    "all zero": (LINE, LINE * 0, Kind.CONSTANT),
    "all one": (LINE, LINE * 0 + 1, Kind.CONSTANT),
    "constant": (LINE, LINE * 0 + 0.4, Kind.CONSTANT),
    "falling": (LINE, 0.7 - 0.03 * LINE, Kind.FALLING),
    "all nan": (LINE, LINE * np.nan, Kind.TOO_FEW_POINTS),
    "percent": (LINE, 10 + 3 * LINE, Kind.OUT_OF_BOUNDS),
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_data_that_carry_no_curve_say_why(case):
    compute, accuracy, kind = DEGENERATE[case]
    fitted = fit(make_points(compute, accuracy, np.full(len(accuracy), 1e-4), 100, 4))
    assert not fitted.fitted
    assert fitted.a is None
    assert fitted.has(kind)
    assert any(flag.fatal and str(flag).startswith("no fit") for flag in fitted.flags)
    with pytest.raises(InputError, match="no fit"):
        fitted.curve(np.array([1.0]))


@pytest.mark.parametrize("count", [4, 5, 6])
def test_few_points_fit_with_a_flag(count, truth):
    fitted = fit(simulated_run(truth, np.linspace(0, 40, count), seed=1))
    assert fitted.fitted
    assert fitted.has(Kind.FEW_POINTS)
    assert np.isfinite([fitted.a.low, fitted.a.high, fitted.b.high, fitted.c_mid.high]).all()


def test_nan_points_are_left_out_and_said(truth, run):
    accuracy = run.accuracy.copy()
    accuracy[[3, 9]] = np.nan
    fitted = fit(make_points(run.compute, accuracy, run.variance, 300, 4))
    assert len(fitted.points) == 18
    assert fitted.fitted
    assert any("2 points dropped" in flag.text for flag in fitted.flags)


def test_missing_baseline_is_flagged_and_widens_r_0(run):
    with_it = fit(run)
    without = fit(make_points(run.compute[1:], run.accuracy[1:], run.variance[1:], 300, 4))
    assert without.has(Kind.MISSING_BASELINE)
    assert not with_it.has(Kind.MISSING_BASELINE)
    assert without.r_0.high - without.r_0.low > with_it.r_0.high - with_it.r_0.low


def test_baseline_missing_and_all_points_past_the_midpoint():
    compute = np.linspace(30, 80, 12)
    fitted = fit(make_points(compute, sigmoid(compute, 0.2, 0.7, 5.0, 1.6), [1e-4] * 12, 500, 4))
    assert fitted.fitted
    assert fitted.r_0.high - fitted.r_0.low > 0.2
    assert fitted.a.low < 0.7 < fitted.a.high


def test_jump_from_zero_to_one_stays_within_bounds():
    accuracy = np.where(LINE < 4, 0.0, 1.0)
    fitted = fit(make_points(LINE, accuracy, np.zeros(12), 100, 4))
    assert 0 <= fitted.r_0.low <= fitted.r_0.high < 0.2
    assert 0.9 < fitted.a.low <= fitted.a.high <= 1
    assert fitted.over_dispersion.median > 10


def test_a_is_not_identified_before_the_midpoint(truth):
    early = fit(simulated_run(truth, np.linspace(0, 8, 20), seed=3))
    late = fit(simulated_run(replace(truth, problems=1000, samples=8), np.linspace(0, 80, 20), seed=3))
    assert early.has(Kind.A_NOT_IDENTIFIED)
    assert not late.has(Kind.A_NOT_IDENTIFIED)
    assert late.a.high - late.a.low < 0.05


def test_flat_run_is_flagged():
    flat = Truth(0.3, 0.3, 10.0, 1.6)
    flags = [fit(simulated_run(flat, np.linspace(0, 40, 16), seed)) for seed in range(20)]
    shown = [one.has(Kind.NO_TREND) or one.has(Kind.FALLING) for one in flags]
    assert sum(shown) >= 17


def test_late_collapse_is_flagged(run):
    accuracy = run.accuracy - 0.15 * (run.compute > 30)
    assert fit(replace(run, accuracy=accuracy)).has(Kind.LATE_DROP)
    assert not fit(run).has(Kind.LATE_DROP)


def test_wandering_residuals_are_flagged(truth):
    wandering = replace(truth, wander=0.03, memory=0.9, problems=1000, samples=8)
    fitted = fit(simulated_run(wandering, np.linspace(0, 60, 40), seed=2))
    assert fitted.has(Kind.WANDERING)
    assert fitted.over_dispersion.median > 2


def test_rewards_below_zero_need_a_floor(run):
    reward = make_points(run.compute, 2 * run.accuracy - 1, 4 * run.variance, binary=False)
    accuracy, scaled = fit(run), fit(reward, floor=-1.0)
    assert scaled.a.median == pytest.approx(2 * accuracy.a.median - 1, abs=0.01)
