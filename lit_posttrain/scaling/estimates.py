"""Numbers with intervals, read off the posterior draws."""

from dataclasses import dataclass

import numpy as np

from lit_posttrain.scaling.points import Points
from lit_posttrain.scaling.posterior import Draws
from lit_posttrain.scaling.sigmoid import Array

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


def limits(samples: Array, level: float) -> tuple[Array, Array, Array]:
    """Median, low and high limit of the central interval, over the first axis."""
    tail = (1 - level) / 2
    low, median, high = np.quantile(samples, [tail, 0.5, 1 - tail], axis=0)
    return median, low, high


def estimate(samples: Array, level: float) -> Estimate:
    """Of samples (draws,)."""
    median, low, high = limits(samples, level)
    return Estimate(float(median), float(low), float(high))


def forecast(points: Points, draws: Draws, level: float) -> Forecast:
    """What twice the compute of the last point brings."""
    end = float(points.compute[-1])
    now, double = draws.curve(np.array([end, 2 * end])).T
    gain = double - now
    return Forecast(
        compute_end=end,
        at_end=estimate(now, level),
        at_double=estimate(double, level),
        gain=estimate(gain, level),
        gain_probability=float((gain >= WORTHWHILE).mean()),
    )


def band(points: Points, draws: Draws, level: float, seed: int) -> Band:
    """A new evaluation of the same checkpoint, drawn for every draw of the curve."""
    rng = np.random.default_rng((seed, 1))
    curves = draws.curve(points.compute)
    noise = rng.standard_normal(curves.shape) * np.sqrt(draws.sigma2[:, None] * points.variance)
    _, low, high = limits(curves + noise, level)
    inside = (points.accuracy >= low) & (points.accuracy <= high)
    return Band(np.median(curves, axis=0), low, high, inside)
