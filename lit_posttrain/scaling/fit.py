"""Fit of one S-curve, with intervals, forecasts and flags."""

from dataclasses import dataclass

import numpy as np

from lit_posttrain.errors import InputError
from lit_posttrain.scaling import flags as flag
from lit_posttrain.scaling.estimates import Band, Estimate, Forecast, band, estimate, forecast, limits
from lit_posttrain.scaling.least_squares import Best, best_curve
from lit_posttrain.scaling.points import Points
from lit_posttrain.scaling.posterior import PRIOR_FREEDOM, Bounds, Draws, draw
from lit_posttrain.scaling.sigmoid import Array

DRAWS = 4000
UNKNOWN_NOISE_FREEDOM = 1.0


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
        return limits(self.draws.curve(compute), self.level)


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
        a=estimate(draws.a, level),
        r_0=estimate(draws.r_0, level),
        c_mid=estimate(np.exp(draws.log_c_mid), level),
        b=estimate(draws.b, level),
        over_dispersion=estimate(draws.sigma2, level),
        forecast=forecast(points, draws, level),
        band=band(points, draws, level, seed),
        r_squared=_r_squared(points.accuracy, fitted),
        best=best,
        draws=draws,
    )


def _late_flags(points: Points, draws: Draws, residual: Array) -> list[flag.Flag]:
    a, c_mid = estimate(draws.a, 0.9), estimate(np.exp(draws.log_c_mid), 0.9)
    end = float(points.compute[-1])
    found = flag.identification(end, c_mid.high, a.low, a.high)
    return found + flag.wandering(residual / np.sqrt(points.variance))


def _r_squared(y: Array, fitted: Array) -> float:
    return float(1 - ((y - fitted) ** 2).sum() / ((y - y.mean()) ** 2).sum())
