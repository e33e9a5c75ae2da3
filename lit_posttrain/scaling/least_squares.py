"""The bounded least-squares curve: same grid as the posterior, levels by a small quadratic programme."""

from dataclasses import dataclass

import numpy as np

from lit_posttrain.scaling.points import Points
from lit_posttrain.scaling.posterior import B_RANGE, C_MID_ABOVE, C_MID_BELOW, GRID, Bounds
from lit_posttrain.scaling.sigmoid import Array, log_compute, rise, sigmoid

SHRINK = 4
STEPS = 8


@dataclass(frozen=True)
class Best:
    """The curve with the smallest weighted sum of squares, `rss` (in units of the sampling variance)."""

    r_0: float
    a: float
    c_mid: float
    b: float
    rss: float

    def curve(self, compute: Array) -> Array:
        """Accuracy at each compute."""
        return sigmoid(compute, self.r_0, self.a, self.c_mid, self.b)


def best_curve(points: Points, bounds: Bounds) -> Best:
    """Search (log C_mid, log B) on a grid that shrinks around its minimum."""
    positive = points.compute[points.compute > 0]
    low = np.log([positive[0] / C_MID_BELOW, B_RANGE[0]])
    high = np.log([positive[-1] * C_MID_ABOVE, B_RANGE[1]])
    best, centre = _least(points, bounds, low, high)
    half = (high - low) / 2
    for _ in range(STEPS):
        half = half / SHRINK
        near = np.maximum(low, centre - half), np.minimum(high, centre + half)
        found, place = _least(points, bounds, *near)
        if found.rss < best.rss:
            best, centre = found, place
    return best


def _least(points: Points, bounds: Bounds, low: Array, high: Array) -> tuple[Best, Array]:
    """The best node of a grid between two corners (log C_mid, log B), and its place."""
    axes = np.linspace(low, high, GRID)
    mid, log_b = (axis.ravel() for axis in np.meshgrid(axes[:, 0], axes[:, 1], indexing="ij"))
    r_0, a, rss = bounded_levels(points, mid, np.exp(log_b), bounds)
    least = int(np.argmin(rss))
    place = np.array([mid[least], log_b[least]])
    c_mid, b = np.exp(place)
    return Best(float(r_0[least]), float(a[least]), float(c_mid), float(b), float(rss[least])), place


def bounded_levels(points: Points, log_c_mid: Array, b: Array, bounds: Bounds) -> tuple[Array, Array, Array]:
    """R_0, A and the residual sum for each of N shapes under floor <= R_0 <= A <= cap, each (N,).

    The minimum of a convex quadratic over a triangle is the free one if it lies inside, else the least of the
    minima on the three sides.
    """
    weight = 1.0 / points.variance
    g = rise(log_compute(points.compute), log_c_mid[:, None], b[:, None])
    u, y = 1.0 - g, points.accuracy
    uu, gg, ug = (u * u) @ weight + 1e-300, (g * g) @ weight + 1e-300, (u * g) @ weight
    uy, gy = u @ (weight * y), g @ (weight * y)
    floor, cap = bounds.floor, bounds.cap
    determinant = uu * gg - ug * ug
    safe = np.where(determinant > 0, determinant, 1.0)
    free_r_0, free_a = (uy * gg - gy * ug) / safe, (gy * uu - uy * ug) / safe
    inside = (determinant > 0) & (free_r_0 >= floor) & (free_a <= cap) & (free_r_0 <= free_a)
    flat = np.full_like(uu, np.clip(np.average(y, weights=weight), floor, cap))
    r_0 = np.stack([free_r_0, np.clip((uy - cap * ug) / uu, floor, cap), np.full_like(uu, floor), flat])
    a = np.stack([free_a, np.full_like(uu, cap), np.clip((gy - floor * ug) / gg, floor, cap), flat])
    rss = ((y - r_0[..., None] * u - a[..., None] * g) ** 2) @ weight
    rss[0] = np.where(inside, rss[0], np.inf)
    side, index = np.argmin(rss, axis=0), np.arange(len(uu))
    return r_0[side, index], a[side, index], rss[side, index]
