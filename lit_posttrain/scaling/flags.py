"""What a reader must know before trusting a fit."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy.special import stdtrit

from lit_posttrain.scaling.points import Points
from lit_posttrain.scaling.sigmoid import Array

LEAST_POINTS = 4
FEW_POINTS = 8
IDENTIFIED_HALF_WIDTH = 0.04


class Kind(StrEnum):
    """What a flag is about."""

    TOO_FEW_POINTS = "too few points"
    CONSTANT = "constant"
    FALLING = "falling"
    OUT_OF_BOUNDS = "out of bounds"
    FEW_POINTS = "few points"
    MISSING_BASELINE = "missing baseline"
    NO_TREND = "no learning shown"
    LATE_DROP = "late drop"
    A_NOT_IDENTIFIED = "A not identified"
    WANDERING = "residuals wander"
    DATA = "data"


FATAL = frozenset({Kind.TOO_FEW_POINTS, Kind.CONSTANT, Kind.FALLING, Kind.OUT_OF_BOUNDS})


@dataclass(frozen=True)
class Flag:
    """One warning; `fatal` means that there is no fit."""

    kind: Kind
    text: str

    @property
    def fatal(self) -> bool:
        return self.kind in FATAL

    def __str__(self) -> str:
        return f"{'no fit: ' if self.fatal else ''}{self.kind}: {self.text}"


def before_fit(points: Points, floor: float, cap: float) -> list[Flag]:
    """Flags that the points alone raise."""
    flags = [Flag(Kind.DATA, note) for note in points.notes]
    if points.dropped:
        reasons = ", ".join(sorted({point.reason for point in points.dropped}))
        flags.append(Flag(Kind.DATA, f"{len(points.dropped)} points dropped ({reasons})"))
    distinct = len(np.unique(points.compute))
    if distinct < LEAST_POINTS:
        text = (
            f"{distinct} different amounts of compute; a curve of 4 parameters needs {LEAST_POINTS} or more"
        )
        return [*flags, Flag(Kind.TOO_FEW_POINTS, text)]
    y = points.accuracy
    if np.ptp(y) == 0:
        return [*flags, Flag(Kind.CONSTANT, f"all {len(y)} points are {y[0]:.4g}")]
    if not floor <= np.median(y) <= cap:
        text = f"half of the points lie outside [{floor:g}, {cap:g}]: is it a percentage? Set cap (and floor)"
        return [*flags, Flag(Kind.OUT_OF_BOUNDS, text)]
    return flags + _trend(points) + _coverage_of_the_axis(points, distinct)


def _coverage_of_the_axis(points: Points, distinct: int) -> list[Flag]:
    flags = []
    if distinct < FEW_POINTS:
        flags.append(
            Flag(Kind.FEW_POINTS, f"{distinct} different amounts of compute; intervals lean on the prior")
        )
    if points.compute[0] > 0:
        text = (
            "no point at C = 0: R_0 is not pinned, so A and B are less certain; evaluate the untrained model"
        )
        flags.append(Flag(Kind.MISSING_BASELINE, text))
    return flags


def _trend(points: Points) -> list[Flag]:
    """Whether accuracy rises: t-test of its slope on the rank of compute, so that units do not matter."""
    _, rank = np.unique(points.compute, return_inverse=True)
    weight = 1.0 / points.variance
    x = rank - np.average(rank, weights=weight)
    y = points.accuracy - np.average(points.accuracy, weights=weight)
    squares = (weight * x * x).sum()
    slope = (weight * x * y).sum() / squares
    freedom = len(points) - 2
    error = np.sqrt(max((weight * (y - slope * x) ** 2).sum() / freedom, 1e-12) / squares)
    if slope / error < -stdtrit(freedom, 0.975):
        return [Flag(Kind.FALLING, "accuracy falls with compute: look at the reward and at truncation")]
    if slope / error < stdtrit(freedom, 0.95):
        text = "a flat line is not ruled out; the curve can only rise, so its gain cannot contain 0"
        return [Flag(Kind.NO_TREND, text)]
    return _late_drop(points)


def _late_drop(points: Points) -> list[Flag]:
    """Whether the last quarter lies below the quarter before it, by 3 standard errors and 2 points."""
    quarter = len(points) // 4
    if quarter < 2:
        return []
    last, previous = slice(-quarter, None), slice(-2 * quarter, -quarter)
    drop = points.accuracy[previous].mean() - points.accuracy[last].mean()
    error = np.sqrt(points.variance[-2 * quarter :].sum()) / quarter
    if drop < max(3 * error, 0.02):
        return []
    text = f"the last {quarter} points lie {drop:.3f} below those before: do not extrapolate; reward hacking?"
    return [Flag(Kind.LATE_DROP, text)]


def identification(end: float, c_mid_high: float, a_low: float, a_high: float) -> list[Flag]:
    """Whether the run went far enough to tell A, by its 90 % limits, whatever level is reported."""
    if c_mid_high > end:
        beyond = f"C_mid may lie beyond the end of the run (up to {c_mid_high / end:.2g} x)"
        text = f"{beyond}: A is only known as an interval"
        return [Flag(Kind.A_NOT_IDENTIFIED, text)]
    if (a_high - a_low) / 2 > IDENTIFIED_HALF_WIDTH:
        text = f"its 90 % interval is {a_high - a_low:.3f} wide: more compute, problems or points"
        return [Flag(Kind.A_NOT_IDENTIFIED, text)]
    return []


def wandering(residual: Array) -> list[Flag]:
    """Whether neighbours err together: lag-1 autocorrelation beyond 1.64 / sqrt(m)."""
    if len(residual) < FEW_POINTS or not np.any(residual):
        return []
    lag_1 = float((residual[1:] * residual[:-1]).sum() / (residual * residual).sum())
    if lag_1 < 1.64 / np.sqrt(len(residual)):
        return []
    text = f"lag-1 autocorrelation {lag_1:.2f}, while the noise is taken as white: intervals are too narrow"
    return [Flag(Kind.WANDERING, text)]
