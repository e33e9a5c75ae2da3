"""What is drawn of one curve, the same for the picture and the page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from lit_posttrain.scaling.estimates import Estimate
from lit_posttrain.scaling.fit import SigmoidFit
from lit_posttrain.scaling.flags import Kind
from lit_posttrain.scaling.report import compact
from lit_posttrain.scaling.runs import Series
from lit_posttrain.scaling.sigmoid import Array

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#8C6D31")
RESOLUTION = 160
REMARKS = (Kind.LATE_DROP, Kind.NO_TREND, Kind.A_NOT_IDENTIFIED)


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis with a place for C = 0 left of a break.

    Attributes:
        base: where C = 0 is drawn.
        broken: whether any curve has a point at C = 0.
        gap: the break.
        left: where curves begin.
        right: where they end: twice the compute of the longest run.
    """

    base: float
    broken: bool
    gap: float
    left: float
    right: float


@dataclass(frozen=True)
class Trace:
    """One curve as arrays: `compute` (RESOLUTION,), dashed from `end` on; bands are (low, high) pairs."""

    name: str
    legend: tuple[str, ...]
    colour: str
    points: tuple[Array, Array, Array]  # place on the axis, accuracy, half-width of its error bar
    compute: Array
    end: float
    median: Array | None = None
    band: tuple[Array, Array] | None = None
    predictive: tuple[Array, Array] | None = None


def axis_for(curves: Sequence[tuple[Series, SigmoidFit]]) -> Axis:
    """The common axis of all curves."""
    every = np.concatenate([fitted.points.compute for _, fitted in curves] or [np.array([])])
    positive = every[every > 0]
    low, high = (float(positive.min()), float(positive.max())) if len(positive) else (1.0, 1.0)
    span = max(np.log10(2 * high / low), 0.5)
    base = low * 10 ** (-0.12 * span)
    return Axis(
        base, bool((every == 0).any()), low * 10 ** (-0.07 * span), low * 10 ** (-0.03 * span), 2 * high
    )


def ticks_of(axis: Axis) -> list[float]:
    """1, 2 and 5 of every decade, or 1 alone if there are many decades."""
    subs = (1, 2, 5) if axis.right / axis.left < 2000 else (1,)
    decades = range(int(np.floor(np.log10(axis.left))), int(np.ceil(np.log10(axis.right))) + 1)
    ticks = [float(f"{sub}e{decade}") for decade in decades for sub in subs]
    return [tick for tick in ticks if axis.left <= tick <= axis.right * 1.0001]


def traces(curves: Sequence[tuple[Series, SigmoidFit]], axis: Axis) -> list[Trace]:
    """What to draw of each curve."""
    return [
        _trace(series, fitted, axis, COLOURS[index % len(COLOURS)])
        for index, (series, fitted) in enumerate(curves)
    ]


def _trace(series: Series, fitted: SigmoidFit, axis: Axis, colour: str) -> Trace:
    points = fitted.points
    place = np.where(points.compute > 0, points.compute, axis.base)
    noise = points.variance
    if fitted.over_dispersion is not None:
        noise = noise * fitted.over_dispersion.median
    drawn = (place, points.accuracy, normal_quantile(fitted.level) * np.sqrt(noise))
    legend = _legend(series.name, fitted)
    if fitted.draws is None:
        end = float(place.max(initial=axis.left))
        return Trace(series.name, legend, colour, drawn, np.array([]), end)
    end = float(points.compute[-1])
    compute = np.unique(np.append(np.geomspace(axis.left, 2 * end, RESOLUTION), end))
    samples = fitted.draws.curve(compute)
    variance = np.interp(compute, points.compute, points.variance)
    normal = np.random.default_rng((fitted.seed, 2)).standard_normal((len(samples), 1))
    noisy = samples + normal * np.sqrt(fitted.draws.sigma2[:, None] * variance)
    median, low, high = fitted.curve(compute)
    tail = (1 - fitted.level) / 2
    wide_low, wide_high = np.quantile(noisy, [tail, 1 - tail], axis=0)
    return Trace(series.name, legend, colour, drawn, compute, end, median, (low, high), (wide_low, wide_high))


def normal_quantile(level: float) -> float:
    """Half-width of a central interval in standard deviations."""
    return float(ndtri(0.5 + level / 2))


def _legend(name: str, fitted: SigmoidFit) -> tuple[str, ...]:
    """Name, A, B, C_mid and a remark, each with its interval; or name and why there is no fit."""
    if fitted.a is None or fitted.b is None or fitted.c_mid is None:
        reason = next((flag.kind.value for flag in fitted.flags if flag.fatal), "unknown")
        return (name, f"no fit: {reason}")
    remarks = [kind.value for kind in REMARKS if fitted.has(kind)]
    return (
        name,
        f"A {_interval(fitted.a, '{:.3f}'.format)}",
        f"B {_interval(fitted.b, '{:.2f}'.format)}",
        f"C_mid {_interval(fitted.c_mid, compact)}",
        remarks[0] if remarks else "",
    )


def _interval(estimate: Estimate, form: Callable[[float], str]) -> str:
    return f"{form(estimate.median)} ({form(estimate.low)}-{form(estimate.high)})"
