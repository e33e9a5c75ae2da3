"""`lit-posttrain curve fit`: from the runs of an experiment to S-curves, figures and a forecast."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_posttrain.errors import InputError
from lit_posttrain.names import METRICS

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from lit_posttrain.scaling.fit import SigmoidFit
    from lit_posttrain.scaling.runs import Selection, Series

    Curves = list[tuple[Series, SigmoidFit]]

DESCRIPTION = (
    "Fit accuracy against training compute, R(C) = R_0 + (A - R_0) / (1 + (C_mid/C)^B), for the runs of "
    "an MLflow experiment, with intervals for every number, drawn, with a forecast to twice the compute. "
    "Writes curve.png, curve.html (interactive) and curve.json, also as artifacts of a run."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `curve fit`; defaults are those of `curve_fit`."""
    default = {name: one.default for name, one in inspect.signature(curve_fit).parameters.items()}
    axes = [name[7:] for name, text in METRICS.items() if text.startswith("compute axis:")]
    add = parser.add_argument
    add("--experiment", required=True, metavar="NAME", help="MLflow experiment whose runs are read")
    add("--tracking_uri", default=default["tracking_uri"], help="MLflow store (default: %(default)s)")
    add("--x", default=default["x"], choices=axes, help="compute axis (default: %(default)s)")
    add("--y", default=default["y"], metavar="METRIC", help="scurve/METRIC to fit (default: %(default)s)")
    add(
        "--run",
        action="append",
        default=[],
        metavar="NAME",
        help="name or id of a run to read; repeatable (all)",
    )
    add("--filter", default=default["filter"], help="MLflow filter of runs, such as \"tags.method = 'grpo'\"")
    add("--pool", action="store_true", help="fit all runs as one curve (default: each run alone)")
    add(
        "--level",
        type=float,
        default=default["level"],
        help="probability of intervals (default: %(default)s)",
    )
    add("--cap", type=float, default=default["cap"], help="upper bound of A (default: %(default)s)")
    add("--floor", type=float, default=default["floor"], help="lower bound of R_0 (default: %(default)s)")
    add(
        "--seed", type=int, default=default["seed"], help="seed of the posterior draws (default: %(default)s)"
    )
    add("--output", default=None, metavar="DIR", help="folder of the files (default: runs/curves/EXPERIMENT)")
    add("--no-log", action="store_false", dest="log", help="do not log the files to MLflow")


def run(args: argparse.Namespace) -> int:
    """Run `curve fit` with parsed options; the exit code."""
    names = inspect.signature(curve_fit).parameters
    return curve_fit(**{name: getattr(args, name) for name in names})


def curve_fit(
    experiment: str,
    tracking_uri: str = "sqlite:///mlflow.db",
    x: str = "device_hours",
    y: str = "accuracy",
    run: Sequence[str] = (),
    filter: str = "",
    pool: bool = False,
    level: float = 0.9,
    cap: float = 1.0,
    floor: float = 0.0,
    seed: int = 0,
    output: str | None = None,
    log: bool = True,
) -> int:
    """Fit the S-curves of an experiment, write the figures and the record, print the table.

    Args:
        experiment: MLflow experiment whose runs are read.
        tracking_uri: MLflow store.
        x: compute axis: device_hours, flops, train_flops, generation_flops, tokens, tokens_generated.
        y: which `scurve/` metric to fit.
        run: names or ids of the runs to read; all if empty.
        filter: MLflow filter of runs, such as "tags.method = 'grpo'".
        pool: fit all runs as one curve instead of each alone.
        level: probability of the intervals.
        cap: upper bound of A: 1, or the ceiling that label noise leaves.
        floor: lower bound of R_0; below 0 only for rewards.
        seed: seed of the posterior draws.
        output: folder of the files; `runs/curves/<experiment>` if left out.
        log: whether to log the files to an MLflow run of the experiment, tagged `lit_posttrain.kind=curve`.

    Returns:
        0 if at least one curve was fitted, else 1.

    Raises:
        InputError: if there is nothing to read or an option makes no sense.
    """
    from lit_posttrain.scaling.fit import fit
    from lit_posttrain.scaling.report import show
    from lit_posttrain.scaling.runs import connect, read_runs

    client = connect(tracking_uri)
    selection = read_runs(client, experiment, x, y, run, filter)
    series = [_pooled(selection, x)] if pool else list(selection.series)
    curves = [(one, fit(one.points, cap, level, seed, floor)) for one in series]
    folder = Path(output) if output is not None else Path("runs/curves") / experiment.replace("/", "_")
    context = {"experiment": experiment, "pooled": pool, "skipped": [list(one) for one in selection.skipped]}
    files = _write(curves, folder, x, y, context)
    logged = _log(client, selection.experiment_id, files, f"curve {y} over {x}") if log else None
    show(curves, selection.skipped, x, y, files)
    if logged:
        print(f"logged to MLflow run {logged}")
    return 0 if any(fitted.fitted for _, fitted in curves) else 1


def _pooled(selection: Selection, axis: str) -> Series:
    """All runs as one curve.

    Raises:
        InputError: if some runs name their device and others do not, on an axis of device time.
    """
    from lit_posttrain.scaling.points import pooled
    from lit_posttrain.scaling.runs import DEVICE_AXES

    series = selection.series
    devices = {one.device for one in series}
    if axis in DEVICE_AXES and len(devices) > 1:
        unknown = ", ".join(one.name for one in series if one.device is None)
        raise InputError(
            f"cannot pool device time: {unknown} have no tag `device.name`; choose --x flops or set it"
        )
    name = f"pool of {len(series)} runs"
    ids = tuple(run_id for one in series for run_id in one.run_ids)
    return replace(series[0], name=name, run_ids=ids, points=pooled([one.points for one in series]))


def _write(curves: Curves, folder: Path, axis: str, quantity: str, context: dict[str, Any]) -> list[Path]:
    """The three files, JSON first since it cannot fail to draw.

    Raises:
        InputError: if the folder cannot be written.
    """
    from lit_posttrain.scaling.plot import draw_png
    from lit_posttrain.scaling.plot_html import draw_html
    from lit_posttrain.scaling.record import record

    document = json.dumps(record(curves, axis, quantity, context), indent=1, allow_nan=False)
    files = [folder / f"curve.{ending}" for ending in ("json", "png", "html")]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files[0].write_text(document + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error}; choose another folder with --output") from error
    title = str(context["experiment"])
    draw_png(curves, axis, quantity, title, files[1])
    draw_html(curves, axis, quantity, title, files[2])
    return files


def _log(client: MlflowClient, experiment_id: str, files: Sequence[Path], name: str) -> str | None:
    """Log the files to a run of their own; a store that refuses is a warning, since the files are written."""
    from mlflow.exceptions import MlflowException

    from lit_posttrain.scaling.runs import CURVE_KIND, KIND_TAG

    try:
        made = client.create_run(experiment_id, tags={KIND_TAG: CURVE_KIND}, run_name=name)
        for path in files:
            client.log_artifact(made.info.run_id, str(path))
        client.set_terminated(made.info.run_id)
    except (MlflowException, OSError) as error:
        print(f"warning: not logged to MLflow: {error}", file=sys.stderr)
        return None
    return made.info.run_id
