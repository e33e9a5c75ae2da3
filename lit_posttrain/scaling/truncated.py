"""Normal and Student t distributions within bounds, accurate far out in the tails."""

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from lit_posttrain.scaling.sigmoid import Array


def _standardised(low, high, centre: Array, scale: Array) -> tuple[Array, Array, Array]:
    """The bounds in scales, mirrored to the left tail, where differences of chances keep their digits."""
    lower, upper = (low - centre) / scale, (high - centre) / scale
    flip = lower > 0
    return np.where(flip, -upper, lower), np.where(flip, -lower, upper), flip


def _chance(lower: Array, upper: Array, nu: float | None) -> tuple[Array, Array]:
    """Cumulative chances at both bounds; normal if nu is None, else Student t."""
    return (ndtr(lower), ndtr(upper)) if nu is None else (stdtr(nu, lower), stdtr(nu, upper))


def inside(nu: float | None, low, high, centre: Array, scale: Array) -> Array:
    """P(low < X < high)."""
    lower, upper, _ = _standardised(low, high, centre, scale)
    below, above = _chance(lower, upper, nu)
    return np.maximum(above - below, 1e-300)


def truncated(nu: float | None, low, high, centre: Array, scale: Array, uniform: Array) -> Array:
    """A draw within [low, high] by inversion of `uniform`."""
    lower, upper, flip = _standardised(low, high, centre, scale)
    below, above = _chance(lower, upper, nu)
    p = np.clip(below + uniform * (above - below), 1e-300, 1 - 1e-16)
    z = ndtri(p) if nu is None else stdtrit(nu, p)
    return np.clip(centre + np.where(flip, -z, z) * scale, low, high)
