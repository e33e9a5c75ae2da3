"""Fit of one S-curve, with intervals, forecasts and flags."""

from dataclasses import dataclass

import numpy as np

from lit_posttrain.errors import InputError
from lit_posttrain.scaling import flags as flag
from lit_posttrain.scaling.least_squares import Best, best_curve
from lit_posttrain.scaling.points import Points
from lit_posttrain.scaling.posterior import PRIOR_FREEDOM, Bounds, Draws, draw
from lit_posttrain.scaling.sigmoid import Array

DRAWS = 4000
UNKNOWN_NOISE_FREEDOM = 1.0
WORTHWHILE = 0.01
"""A gain of one accuracy point: what P(gain) is about."""


@dataclass(frozen=True)
class Estimate:
    """Posterior median and the limits of the central interval at the level of the fit."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Forecast:
    """What training on would bring, for the same problems.

    Attributes:
        compute_end: compute of the last point.
        at_end: accuracy of the curve there, noise apart.
        at_double: accuracy at twice that compute.
        gain: their difference: the gain for 100 % more compute.
        gain_probability: P(gain >= 0.01).
    """

    compute_end: float
    at_end: Estimate
    at_double: Estimate
    gain: Estimate
    gain_probability: float


@dataclass(frozen=True)
class Band:
    """The curve and its predictive band, evaluation noise included, at each point; arrays (m,)."""

    curve: Array
    low: Array
    high: Array
    inside: np.ndarray

    @property
    def width(self) -> Array:
        return self.high - self.low

    @property
    def coverage(self) -> float:
        """Share of the fitted points inside; in-sample, so it flatters."""
        return float(self.inside.mean())


@dataclass(frozen=True)
class SigmoidFit:
    """One fitted curve; without a fit only `points`, `settings` and `flags` are filled.

    Attributes:
        points: the points, used and dropped.
        level: probability of every interval.
        bounds: limits of the levels.
        seed: seed of the posterior draws.
        flags: what to know; a fatal one says why there is no fit.
        a: asymptote.
        r_0: accuracy of the untrained model.
        c_mid: compute at half of the gain, in the unit of the points.
        b: exponent.
        over_dispersion: variance of the points around the curve over their sampling variance.
        forecast: what twice the compute would bring.
        band: predictive band at the points.
        r_squared: share of the variance of the points explained by the least-squares curve.
        best: the bounded least-squares curve.
        draws: posterior draws, for bands anywhere.
    """

    points: Points
    level: float
    bounds: Bounds
    seed: int
    flags: tuple[flag.Flag, ...]
    a: Estimate | None = None
    r_0: Estimate | None = None
    c_mid: Estimate | None = None
    b: Estimate | None = None
    over_dispersion: Estimate | None = None
    forecast: Forecast | None = None
    band: Band | None = None
    r_squared: float = float("nan")
    best: Best | None = None
    draws: Draws | None = None

    @property
    def fitted(self) -> bool:
        return self.draws is not None

    def has(self, kind: flag.Kind) -> bool:
        """Whether a flag of this kind is raised."""
        return any(one.kind is kind for one in self.flags)

    def curve(self, compute: Array) -> tuple[Array, Array, Array]:
        """Pointwise median, low and high limit of the curve at any compute.

        Raises:
            InputError: if there is no fit.
        """
        if self.draws is None:
            raise InputError(f"there is no fit: {'; '.join(map(str, self.flags))}")
        return _limits(self.draws.curve(compute), self.level)


def fit(
    points: Points, cap: float = 1.0, level: float = 0.9, seed: int = 0, floor: float = 0.0
) -> SigmoidFit:
    """Fit R_0 + (A - R_0) / (1 + (C_mid/C)^B) and report every number with its interval.

    Grid posterior with white noise, whose size is the sampling variance times a fitted over-dispersion.
    Deterministic; data that cannot carry a curve give a result without a fit, whose flags say why.

    Args:
        points: probes of a run, the untrained model included; see `make_points`.
        cap: upper bound of A: 1, or the ceiling that label noise leaves.
        level: probability of the intervals, between 0 and 1.
        seed: seed of the posterior draws.
        floor: lower bound of R_0; below 0 only for rewards.

    Raises:
        InputError: if `level`, `floor` or `cap` make no sense.

    Source: arXiv:2510.13786, eq. 1, for the curve; published without intervals, these are ours.
    """
    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1, for example 0.9 (got {level})")
    if not floor < cap:
        raise InputError(f"cap must be greater than floor (got cap {cap}, floor {floor})")
    bounds = Bounds(floor, cap)
    early = tuple(flag.before_fit(points, floor, cap))
    if any(one.fatal for one in early):
        return SigmoidFit(points, level, bounds, seed, early)
    freedom = PRIOR_FREEDOM if points.measured else UNKNOWN_NOISE_FREEDOM
    draws = draw(points, bounds, freedom, DRAWS, seed)
    best = best_curve(points, bounds)
    fitted = best.curve(points.compute)
    return SigmoidFit(
        points,
        level,
        bounds,
        seed,
        flags=early + tuple(_late_flags(points, draws, points.accuracy - fitted)),
        a=_estimate(draws.a, level),
        r_0=_estimate(draws.r_0, level),
        c_mid=_estimate(np.exp(draws.log_c_mid), level),
        b=_estimate(draws.b, level),
        over_dispersion=_estimate(draws.sigma2, level),
        forecast=_forecast(points, draws, level),
        band=_band(points, draws, level, seed),
        r_squared=_r_squared(points.accuracy, fitted),
        best=best,
        draws=draws,
    )


def _late_flags(points: Points, draws: Draws, residual: Array) -> list[flag.Flag]:
    a, c_mid = _estimate(draws.a, 0.9), _estimate(np.exp(draws.log_c_mid), 0.9)
    end = float(points.compute[-1])
    found = flag.identification(end, c_mid.high, a.low, a.high)
    return found + flag.wandering(residual / np.sqrt(points.variance))


def _limits(samples: Array, level: float) -> tuple[Array, Array, Array]:
    tail = (1 - level) / 2
    low, median, high = np.quantile(samples, [tail, 0.5, 1 - tail], axis=0)
    return median, low, high


def _estimate(samples: Array, level: float) -> Estimate:
    median, low, high = _limits(samples, level)
    return Estimate(float(median), float(low), float(high))


def _forecast(points: Points, draws: Draws, level: float) -> Forecast:
    end = float(points.compute[-1])
    now, double = draws.curve(np.array([end, 2 * end])).T
    gain = double - now
    return Forecast(
        compute_end=end,
        at_end=_estimate(now, level),
        at_double=_estimate(double, level),
        gain=_estimate(gain, level),
        gain_probability=float((gain >= WORTHWHILE).mean()),
    )


def _band(points: Points, draws: Draws, level: float, seed: int) -> Band:
    """A new evaluation of the same checkpoint, drawn for every draw of the curve."""
    rng = np.random.default_rng((seed, 1))
    curves = draws.curve(points.compute)
    noise = rng.standard_normal(curves.shape) * np.sqrt(draws.sigma2[:, None] * points.variance)
    _, low, high = _limits(curves + noise, level)
    inside = (points.accuracy >= low) & (points.accuracy <= high)
    return Band(np.median(curves, axis=0), low, high, inside)


def _r_squared(y: Array, fitted: Array) -> float:
    return float(1 - ((y - fitted) ** 2).sum() / ((y - y.mean()) ** 2).sum())
