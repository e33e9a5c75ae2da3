"""From MLflow runs to points: each probe is one step of `scurve/*` metrics."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lit_posttrain.errors import InputError
from lit_posttrain.names import METRICS, is_known
from lit_posttrain.scaling.history import read_points
from lit_posttrain.scaling.points import Points

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

KIND_TAG = "lit_posttrain.kind"
CURVE_KIND = "curve"
"""Runs with this tag hold fitted curves; they are written by the command and never read by it."""
DEVICE_TAGS = ("device", "device.name")
"""Where a run names its device type: set by hand, or by the logger; the first one found counts."""
DEVICE_AXES = ("device_hours", "device_seconds")
AXES = tuple(
    name.removeprefix("scurve/") for name, text in METRICS.items() if text.startswith("compute axis:")
)


@dataclass(frozen=True)
class Series:
    """The points of one run, or of several that were pooled."""

    name: str
    run_ids: tuple[str, ...]
    device: str | None
    points: Points


@dataclass(frozen=True)
class Selection:
    """What an experiment holds.

    Attributes:
        experiment_id: MLflow's id.
        series: one per run with points, oldest first.
        skipped: name of each other run and why it was not read.
    """

    experiment_id: str
    series: tuple[Series, ...]
    skipped: tuple[tuple[str, str], ...]


def connect(tracking_uri: str) -> MlflowClient:
    """A client of the store, which gives up after one more try; MLflow's own patience is minutes.

    Raises:
        InputError: if the URI names an sqlite file that does not exist; MLflow would create an empty one.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    path = tracking_uri.removeprefix("sqlite:///")
    if path != tracking_uri and not Path(path).is_file():
        raise InputError(
            f"no MLflow store at {Path(path).absolute()}; set --tracking_uri to the one of the runs, "
            "for example sqlite:///mlflow.db in the folder where they were started"
        )
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking_uri)


def read_runs(
    client: MlflowClient,
    experiment: str,
    axis: str = "device_hours",
    quantity: str = "accuracy",
    runs: Sequence[str] = (),
    filter_string: str = "",
) -> Selection:
    """The points of the runs of an experiment, fitted curves left out.

    Args:
        client: from `connect`.
        experiment: name of the experiment.
        axis: compute axis, one of `AXES`.
        quantity: which `scurve/` metric is y.
        runs: names or ids of the runs to read; all if empty.
        filter_string: MLflow filter, such as "tags.method = 'grpo'".

    Raises:
        InputError: if the axis, quantity, experiment or a run does not exist, nothing has points, or hours of
            different devices would share an axis.
    """
    _check_names(axis, quantity)
    experiment_id = _experiment_id(client, experiment)
    found = _search(client, experiment_id, filter_string)
    chosen = _choose(found, runs)
    series: list[Series] = []
    skipped: list[tuple[str, str]] = []
    for run in chosen:
        points = read_points(client, run, axis, quantity)
        if isinstance(points, str):
            skipped.append((_name(run), points))
        else:
            device = next((run.data.tags[tag] for tag in DEVICE_TAGS if tag in run.data.tags), None)
            series.append(Series(_name(run), (run.info.run_id,), device, points))
    if not series:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped) or "no runs match"
        raise InputError(
            f"experiment {experiment!r} has no points of scurve/{quantity} over scurve/{axis} ({reasons}); "
            "log them with the AccuracyProbe, or choose another axis, quantity or run"
        )
    _check_devices(series, axis)
    return Selection(experiment_id, tuple(_distinct_names(series)), tuple(skipped))


def _check_names(axis: str, quantity: str) -> None:
    if axis not in AXES:
        raise InputError(f"unknown compute axis {axis!r}; choose one of {', '.join(AXES)}")
    if not is_known(f"scurve/{quantity}") or quantity in AXES:
        names = [name.removeprefix("scurve/") for name in METRICS if name.startswith("scurve/")]
        choices = ", ".join(name for name in names if name not in AXES)
        raise InputError(f"unknown quantity {quantity!r}; choose one of {choices}")


def _experiment_id(client: MlflowClient, experiment: str) -> str:
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_experiment_by_name(experiment)
    except MlflowException as error:
        raise InputError(
            f"the MLflow store does not answer ({error}); set --tracking_uri, or start it"
        ) from error
    if found is None or found.lifecycle_stage != "active":
        names = sorted(one.name for one in client.search_experiments(max_results=1000))
        raise InputError(
            f"no experiment {experiment!r} in this store; there are: {', '.join(names) or 'none'}"
        )
    return found.experiment_id


def _search(client: MlflowClient, experiment_id: str, filter_string: str) -> list[Run]:
    """All active runs that match, oldest first, our own curves left out."""
    from mlflow.exceptions import MlflowException

    found: list[Run] = []
    token = None
    while True:
        try:
            page = client.search_runs(
                [experiment_id], filter_string, order_by=["attributes.start_time ASC"], page_token=token
            )
        except MlflowException as error:
            raise InputError(
                f"the filter {filter_string!r} was refused: {error}; write it like \"tags.method = 'grpo'\""
            ) from error
        found += page
        token = page.token
        if not token:
            return [run for run in found if run.data.tags.get(KIND_TAG) != CURVE_KIND]


def _choose(found: Iterable[Run], wanted: Sequence[str]) -> list[Run]:
    found = list(found)
    if not wanted:
        return found
    chosen = [run for run in found if _name(run) in wanted or run.info.run_id in wanted]
    missing = set(wanted) - {_name(run) for run in chosen} - {run.info.run_id for run in chosen}
    if missing:
        names = ", ".join(sorted({_name(run) for run in found})) or "none"
        raise InputError(f"no run named {', '.join(sorted(missing))}; the experiment has: {names}")
    return chosen


def _name(run: Run) -> str:
    return run.info.run_name or run.info.run_id


def _distinct_names(series: Sequence[Series]) -> list[Series]:
    """Series whose names differ: a name that occurs twice gets the start of the run's id."""
    names = [one.name for one in series]
    return [
        Series(f"{one.name} ({one.run_ids[0][:6]})", one.run_ids, one.device, one.points)
        if names.count(one.name) > 1
        else one
        for one in series
    ]


def _check_devices(series: Sequence[Series], axis: str) -> None:
    devices = {one.device: one.name for one in series if one.device}
    if axis in DEVICE_AXES and len(devices) > 1:
        seen = ", ".join(f"{device} ({name})" for device, name in devices.items())
        raise InputError(
            f"device time on different devices is not one axis: {seen}; "
            "choose --x flops or --x tokens, or select the runs of one device with --run or --filter"
        )
