"""The points of one S-curve, and how noisy each of them is."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from lit_posttrain.scaling.sigmoid import Array

ASSUMED_STANDARD_ERROR = 0.01
"""Noise of a point about which nothing is known; the fit then trusts its own residuals three times sooner."""


@dataclass(frozen=True)
class Dropped:
    """A point that is not used, and why."""

    compute: float
    accuracy: float
    reason: str


@dataclass(frozen=True)
class Points:
    """The probes of one run, sorted by compute.

    Attributes:
        compute: (m,) training compute so far, >= 0, any unit; 0 is the untrained model.
        accuracy: (m,) accuracy, or another quantity that rises and saturates.
        variance: (m,) sampling variance of each accuracy for the fixed set of problems.
        steps: (m,) step at which the probe was logged.
        measured: whether `variance` was measured; False means that some of it was assumed.
        between_variance: variance to add to a level if the claim is about new problems; NaN if unknown.
        notes: what a reader of the fit should know about these points.
        dropped: points left out, each with its reason.
    """

    compute: Array
    accuracy: Array
    variance: Array
    steps: Array
    measured: bool = True
    between_variance: float = float("nan")
    notes: tuple[str, ...] = ()
    dropped: tuple[Dropped, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.compute)


def make_points(
    compute: ArrayLike,
    accuracy: ArrayLike,
    within_variance: ArrayLike | None = None,
    problems: ArrayLike | None = None,
    samples: ArrayLike | None = None,
    steps: ArrayLike | None = None,
    binary: bool = True,
) -> Points:
    """Points from what a probe logs; unusable ones go to `dropped`, missing noise is filled and said.

    Args:
        compute: (m,) training compute, any unit.
        accuracy: (m,) accuracy.
        within_variance: (m,) sum over problems of p(1-p)/(k-1)/n^2; NaN where it was not measured (k = 1).
        problems: (m,) or scalar, number n of held-out problems.
        samples: (m,) or scalar, samples k of each problem.
        steps: (m,) step of each probe; counted from 0 if left out.
        binary: whether samples score 0 or 1, so that the plain binomial variance bounds a missing one.
    """
    x, y = np.atleast_1d(np.asarray(compute, float)), np.atleast_1d(np.asarray(accuracy, float))
    v, n, k = (_column(column, len(x)) for column in (within_variance, problems, samples))
    step = np.arange(len(x), dtype=float) if steps is None else np.atleast_1d(np.asarray(steps, float))
    reasons = [_reason(c, a) for c, a in zip(x, y, strict=True)]
    keep = np.array([reason is None for reason in reasons], dtype=bool)
    dropped = tuple(
        Dropped(float(c), float(a), reason) for c, a, reason in zip(x, y, reasons, strict=True) if reason
    )
    order = np.argsort(x[keep], kind="stable")
    x, y, v, n, k, step = (column[keep][order] for column in (x, y, v, n, k, step))
    filled, measured, notes = _noise(y, v, n * k, binary)
    if len(set(n[np.isfinite(n)])) > 1:
        notes = [*notes, "the number of held-out problems changes between points: they are not one axis"]
    return Points(x, y, filled, step, measured, _between(y, v, n, k), tuple(notes), dropped)


def pooled(parts: Sequence[Points]) -> Points:
    """Several runs as the points of one curve."""
    columns = [
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("compute", "accuracy", "variance", "steps")
    ]
    order = np.argsort(columns[0], kind="stable")
    x, y, v, step = (column[order] for column in columns)
    notes = dict.fromkeys(note for part in parts for note in part.notes)
    between = [part.between_variance for part in parts if np.isfinite(part.between_variance)]
    return Points(
        compute=x,
        accuracy=y,
        variance=v,
        steps=step,
        measured=all(part.measured for part in parts),
        between_variance=max(between, default=float("nan")),
        notes=tuple(notes),
        dropped=tuple(point for part in parts for point in part.dropped),
    )


def _column(values: ArrayLike | None, length: int) -> Array:
    if values is None:
        return np.full(length, np.nan)
    return np.broadcast_to(np.asarray(values, float), (length,)).astype(float)


def _reason(compute: float, accuracy: float) -> str | None:
    if not np.isfinite(accuracy):
        return f"accuracy is {accuracy}"
    if not np.isfinite(compute):
        return f"compute is {compute}"
    if compute < 0:
        return "compute is negative"
    return None


def _noise(y: Array, v: Array, count: Array, binary: bool) -> tuple[Array, bool, list[str]]:
    """Variances without holes: measured, else binomial, else that of the other points, else assumed."""
    notes: list[str] = []
    filled = np.where(v >= 0, v, np.nan)
    missing = np.isnan(filled)
    if binary and np.any(missing & (count > 0)):
        share = np.clip((y * count + 0.5) / (count + 1), 0.0, 1.0)
        filled = np.where(missing, share * (1 - share) / count, filled)
        notes.append(
            "within-problem variance not measured (samples_per_problem 1?): binomial, so bands are wide"
        )
    missing = np.isnan(filled)
    if missing.any() and not missing.all():
        filled = np.where(missing, np.nanmedian(filled), filled)
        notes.append(f"noise of {missing.sum()} points taken from the others")
    if missing.all() and len(y):
        filled = np.full(len(y), ASSUMED_STANDARD_ERROR**2)
        notes.append(f"noise of the points unknown: a standard error of {ASSUMED_STANDARD_ERROR} was assumed")
    resolution = np.where(count > 0, 1.0 / np.maximum(count, 1.0) ** 2, 1e-12)
    return np.maximum(filled, resolution), not missing.all(), notes


def _between(y: Array, v: Array, n: Array, k: Array) -> float:
    """Variance of the level that comes from which problems were drawn, at the last point: s_b^2 / n."""
    if not len(y) or not np.isfinite(v[-1] + n[-1] + k[-1]):
        return float("nan")
    within = v[-1] * n[-1] * k[-1]
    return float(max(0.0, y[-1] * (1 - y[-1]) - within) / n[-1])
