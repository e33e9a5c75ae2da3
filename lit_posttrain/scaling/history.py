"""The metric history of one run as points, joined by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lit_posttrain.errors import InputError
from lit_posttrain.scaling.points import Points, make_points
from lit_posttrain.scaling.sigmoid import Array

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

STORED_INFINITY = 1e300
"""MLflow's SQL store keeps infinities as the largest float."""


def read_points(client: MlflowClient, run: Run, axis: str, quantity: str) -> Points | str:
    """The points of one run, or why it has none.

    Raises:
        InputError: if an accuracy is not a share.
    """
    logged = run.data.metrics
    for name in (f"scurve/{quantity}", f"scurve/{axis}"):
        if name not in logged:
            return f"no {name}"
    y, x = _history(client, run, f"scurve/{quantity}"), _history(client, run, f"scurve/{axis}")
    steps = sorted(y.keys() | x.keys())
    values = np.array([y.get(step, np.nan) for step in steps])
    if quantity == "accuracy" and np.any((values < 0) | (values > 1)):
        outside = values[(values < 0) | (values > 1)][0]
        name = run.info.run_name or run.info.run_id
        raise InputError(f"scurve/accuracy of run {name} is {outside:g}; expected a share between 0 and 1")
    columns = {name: _column(client, run, name, steps) for name in ("problems", "samples_per_problem")}
    return make_points(
        [x.get(step, np.nan) for step in steps],
        values,
        _variance(client, run, quantity, steps),
        columns["problems"],
        columns["samples_per_problem"],
        steps,
        binary=quantity == "accuracy",
    )


def _variance(client: MlflowClient, run: Run, quantity: str, steps: Sequence[int]) -> Array:
    """Sampling variance; quantities other than accuracy have a standard error for new problems at most."""
    if quantity == "accuracy":
        return _column(client, run, "within_variance", steps)
    return _column(client, run, f"{quantity}_standard_error", steps) ** 2


def _column(client: MlflowClient, run: Run, name: str, steps: Sequence[int]) -> Array:
    if f"scurve/{name}" not in run.data.metrics:
        return np.full(len(steps), np.nan)
    history = _history(client, run, f"scurve/{name}")
    return np.array([history.get(step, np.nan) for step in steps])


def _history(client: MlflowClient, run: Run, key: str) -> dict[int, float]:
    """Value of a metric by step; of values at the same step the one logged last."""
    logged = sorted(client.get_metric_history(run.info.run_id, key), key=lambda metric: metric.timestamp)
    values = {metric.step: float(metric.value) for metric in logged}
    return {step: np.inf if abs(value) > STORED_INFINITY else value for step, value in values.items()}
