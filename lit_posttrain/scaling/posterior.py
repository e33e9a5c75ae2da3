"""Posterior of the S-curve on a grid: two shape parameters searched, the two levels in closed form.

For fixed C_mid and B the curve is linear in R_0 and A, so a grid over (log C_mid, log B) needs no starting
values and cannot fail to converge. Notation: y_j = R_0 (1 - f_j) + A f_j + e_j, Var(e_j) = sigma^2 v_j.
Source of the idea: variable projection, Golub and Pereyra 1973; Czech et al. 2026, arXiv:2603.22339.
"""

from dataclasses import dataclass

import numpy as np

from lit_posttrain.scaling.points import Points
from lit_posttrain.scaling.sigmoid import Array, log_compute, rise
from lit_posttrain.scaling.truncated import inside, truncated

GRID = 56
REFINEMENTS = 3
PROPOSALS = 3
"""Proposals per draw that is kept."""
B_CENTRE, B_SPREAD = 1.5, 0.6
"""Prior of the exponent: log-normal; published values run from 1.07 to 2.44 (arXiv:2510.13786, table 1)."""
B_RANGE = (0.15, 10.0)
C_MID_ABOVE, C_MID_BELOW = 100.0, 10.0
"""C_mid is log-uniform from a tenth of the first trained point to a hundred times the last."""
PRIOR_FREEDOM = 3.0
"""Degrees of freedom of the prior of sigma^2, centred on 1: the sampling noise alone."""
NEGLIGIBLE = 12.0
"""Cells this far (in nats) below the best one are left out when the grid is refined."""


@dataclass(frozen=True)
class Bounds:
    """floor <= R_0 <= A <= cap."""

    floor: float = 0.0
    cap: float = 1.0


@dataclass(frozen=True)
class Draws:
    """Samples of the posterior, each array of shape (draws,); `sigma2` is noise over sampling noise."""

    r_0: Array
    a: Array
    log_c_mid: Array
    b: Array
    sigma2: Array

    def curve(self, compute: Array) -> Array:
        """Accuracy of every draw at every compute: (draws, len(compute))."""
        share = rise(log_compute(compute), self.log_c_mid[:, None], self.b[:, None])
        return self.r_0[:, None] * (1.0 - share) + self.a[:, None] * share


@dataclass(frozen=True)
class Levels:
    """Least squares of the two levels for N shapes; every array is (N,)."""

    r_0: Array
    a: Array
    rss: Array
    uu: Array  # sum of (1-f)^2 / v
    ug: Array  # sum of (1-f) f / v
    uy: Array  # sum of (1-f) y / v
    gg: Array  # sum of (part of f orthogonal to 1-f)^2 / v

    def r_0_given(self, a: Array) -> Array:
        """The best R_0 for a given A."""
        return (self.uy - a * self.ug) / self.uu


def levels(points: Points, log_c_mid: Array, b: Array) -> Levels:
    """Weighted least squares of (R_0, A) for each shape, unbounded."""
    weight = 1.0 / points.variance
    tiny = 1e-12 * weight.sum()
    g = rise(log_compute(points.compute), log_c_mid[:, None], b[:, None])
    u = 1.0 - g
    uu = np.maximum((u * u) @ weight, tiny)
    ug, uy = (u * g) @ weight, u @ (weight * points.accuracy)
    orthogonal = g - (ug / uu)[:, None] * u
    gg = np.maximum((orthogonal * orthogonal) @ weight, tiny)
    a = (orthogonal @ (weight * points.accuracy)) / gg
    r_0 = (uy - a * ug) / uu
    residual = points.accuracy - r_0[:, None] * u - a[:, None] * g
    return Levels(r_0, a, (residual * residual) @ weight, uu, ug, uy, gg)


def log_mass(
    points: Points, fit: Levels, log_b: Array, bounds: Bounds, freedom: float
) -> tuple[Array, Array]:
    """Log posterior mass of each shape, up to a constant, with the levels and sigma^2 integrated out.

    Returns:
        The log mass, and the log of its last factor: the chance that R_0 is within its bounds at the best A.
    """
    nu = freedom + len(points) - 2
    q = freedom + fit.rss
    scale = np.sqrt(q / nu)
    a_inside = inside(nu, bounds.floor, bounds.cap, fit.a, scale / np.sqrt(fit.gg))
    best_a = np.clip(fit.a, bounds.floor, bounds.cap)
    r_0_inside = np.log(inside(nu, bounds.floor, best_a, fit.r_0_given(best_a), scale / np.sqrt(fit.uu)))
    prior = -0.5 * ((log_b - np.log(B_CENTRE)) / B_SPREAD) ** 2
    mass = prior - 0.5 * np.log(fit.uu * fit.gg) - 0.5 * nu * np.log(q / 2) + np.log(a_inside) + r_0_inside
    return mass, r_0_inside


@dataclass(frozen=True)
class Surface:
    """The last grid: log mass (GRID, GRID) over log C_mid (rows) and log B (columns)."""

    log_c_mid: Array
    log_b: Array
    mass: Array


def surface(points: Points, bounds: Bounds, freedom: float) -> Surface:
    """The posterior on a grid that is refined three times around where the mass is."""
    positive = points.compute[points.compute > 0]
    mid_edge = (np.log(positive[0] / C_MID_BELOW), np.log(positive[-1] * C_MID_ABOVE))
    b_edge = (np.log(B_RANGE[0]), np.log(B_RANGE[1]))
    grid = _evaluated(points, bounds, freedom, mid_edge, b_edge)
    for _ in range(REFINEMENTS):
        heavy = grid.mass > grid.mass.max() - NEGLIGIBLE
        mid_edge = _zoom(mid_edge, np.flatnonzero(heavy.any(axis=1)))
        b_edge = _zoom(b_edge, np.flatnonzero(heavy.any(axis=0)))
        grid = _evaluated(points, bounds, freedom, mid_edge, b_edge)
    return grid


def _evaluated(
    points: Points, bounds: Bounds, freedom: float, mid_edge: tuple[float, float], b_edge: tuple[float, float]
) -> Surface:
    """The log mass at the centres of GRID x GRID cells between the edges."""
    log_c_mid, log_b = (
        low + (high - low) * (np.arange(GRID) + 0.5) / GRID for low, high in (mid_edge, b_edge)
    )
    mid, b = (axis.ravel() for axis in np.meshgrid(log_c_mid, log_b, indexing="ij"))
    mass, _ = log_mass(points, levels(points, mid, np.exp(b)), b, bounds, freedom)
    return Surface(log_c_mid, log_b, mass.reshape(GRID, GRID))


def _zoom(edge: tuple[float, float], used: np.ndarray) -> tuple[float, float]:
    """The edge narrowed to the cells in use, with one cell of margin."""
    cell = (edge[1] - edge[0]) / GRID
    low, high = max(int(used[0]) - 1, 0), min(int(used[-1]) + 2, GRID)
    return edge[0] + low * cell, edge[0] + high * cell


def draw(points: Points, bounds: Bounds, freedom: float, count: int, seed: int) -> Draws:
    """`count` draws of the posterior: cell, place in the cell, A, sigma^2, R_0; then resampled by weight.

    The weight corrects what the cell ignores: how mass varies within it, and the bounds of R_0 given A.
    """
    rng = np.random.default_rng(seed)
    mid, log_b, log_cell = _shapes(surface(points, bounds, freedom), PROPOSALS * count, rng)
    fit = levels(points, mid, np.exp(log_b))
    log_here, r_0_inside = log_mass(points, fit, log_b, bounds, freedom)
    nu, q = freedom + len(points) - 2, freedom + fit.rss
    u = rng.uniform(size=(2, len(mid)))
    a = truncated(nu, bounds.floor, bounds.cap, fit.a, np.sqrt(q / nu / fit.gg), u[0])
    sigma2 = (q + (a - fit.a) ** 2 * fit.gg) / rng.chisquare(nu + 1, len(mid))
    centre, scale = fit.r_0_given(a), np.sqrt(sigma2 / fit.uu)
    r_0 = truncated(None, bounds.floor, a, centre, scale, u[1])
    log_weight = log_here - log_cell + np.log(inside(None, bounds.floor, a, centre, scale)) - r_0_inside
    chosen = _systematic(np.exp(log_weight - log_weight.max()), count, rng)
    return Draws(r_0[chosen], a[chosen], mid[chosen], np.exp(log_b[chosen]), sigma2[chosen])


def _shapes(grid: Surface, count: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Places (log C_mid, log B), even within cells drawn by mass, and the log mass of those cells."""
    cells = _systematic(np.exp(grid.mass - grid.mass.max()).ravel(), count, rng)
    row, column = np.unravel_index(cells, grid.mass.shape)
    jitter = rng.uniform(-0.5, 0.5, (2, count))
    mid = grid.log_c_mid[row] + jitter[0] * (grid.log_c_mid[1] - grid.log_c_mid[0])
    log_b = grid.log_b[column] + jitter[1] * (grid.log_b[1] - grid.log_b[0])
    return mid, log_b, grid.mass.ravel()[cells]


def _systematic(weight: Array, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` indices drawn in proportion to `weight`, evenly spread over its cumulative sum."""
    cumulative = np.cumsum(weight)
    position = (np.arange(count) + rng.uniform()) / count * cumulative[-1]
    return np.minimum(np.searchsorted(cumulative, position), len(weight) - 1)
