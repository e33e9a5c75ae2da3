"""Reading from a real MLflow store: sqlite, made once."""

import json
import time

import numpy as np
import pytest

from lit_posttrain.errors import InputError
from lit_posttrain.names import known
from lit_posttrain.scaling.command import curve_fit
from lit_posttrain.scaling.runs import CURVE_KIND, KIND_TAG, connect, read_runs
from lit_posttrain.scaling.simulate import Truth, simulated_run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def probe(step, hours, accuracy, variance, when=None):
    """One probe, as the tracking room logs it: all metrics at one step."""
    from mlflow.entities import Metric

    values = {
        "accuracy": accuracy,
        "within_variance": variance,
        "problems": 300,
        "samples_per_problem": 4,
        "device_hours": hours,
        "flops": hours * 3e18,
        "reward": 2 * accuracy - 1,
        "reward_standard_error": 0.02,
    }
    when = int(time.time() * 1000) if when is None else when
    return [Metric(known(f"scurve/{name}"), value, when, step) for name, value in values.items()]


def log_run(client, experiment_id, name, end, seed, count=12, **tags):
    points = simulated_run(Truth(0.2, 0.7, 10.0, 1.6, 300, 4), np.linspace(0, end, count), seed)
    made = client.create_run(experiment_id, run_name=name, tags=tags)
    columns = zip(points.compute, points.accuracy, points.variance, strict=True)
    metrics = [metric for step, columns in enumerate(columns) for metric in probe(step, *columns)]
    client.log_batch(made.info.run_id, metrics)
    return made.info.run_id


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    main = client.create_experiment("main", artifact_location=str(folder / "artifacts"))
    long = log_run(client, main, "long", 40, 1, device="H200", method="grpo")
    log_run(client, main, "short", 12, 2, device="H200", method="dpo")
    client.create_run(main, run_name="empty")
    # a resumed run logged step 3 again, later: the later values count
    client.log_batch(long, probe(3, 10.9, 0.5, 2e-4, when=int(time.time() * 1000) + 60_000))
    mixed = client.create_experiment("mixed", artifact_location=str(folder / "artifacts"))
    log_run(client, mixed, "one", 40, 1, count=5, device="H200")
    log_run(client, mixed, "two", 40, 2, count=5, **{"device.name": "A100"})
    log_run(client, mixed, "twin", 40, 3, count=5, device="A100")
    log_run(client, mixed, "twin", 40, 4, count=5, device="A100")
    client.create_experiment("nothing", artifact_location=str(folder / "artifacts"))
    return uri


def test_points_are_joined_by_step_and_the_last_value_wins(store):
    selection = read_runs(connect(store), "main")
    assert [series.name for series in selection.series] == ["long", "short"]
    assert selection.skipped == (("empty", "no scurve/accuracy"),)
    points = selection.series[0].points
    assert len(points) == 12
    assert points.compute[0] == 0
    assert points.measured
    assert points.compute[3] == 10.9
    assert points.accuracy[3] == 0.5


def test_runs_are_selected_by_name_id_or_filter(store):
    client = connect(store)
    short = read_runs(client, "main", runs=["short"]).series
    assert [series.name for series in short] == ["short"]
    assert read_runs(client, "main", runs=[short[0].run_ids[0]]).series[0].name == "short"
    found = read_runs(client, "main", filter_string="tags.method = 'grpo'").series
    assert [series.name for series in found] == ["long"]


def test_a_probe_without_its_compute_is_dropped_and_said(store):
    client = connect(store)
    experiment = client.create_experiment("holes")
    run_id = log_run(client, experiment, "holes", 40, 1, count=5)
    client.log_metric(run_id, "scurve/accuracy", 0.6, step=99)
    client.log_metric(run_id, "scurve/device_hours", float("inf"), step=100)
    client.log_metric(run_id, "scurve/accuracy", 0.6, step=100)
    points = read_runs(client, "holes").series[0].points
    assert len(points) == 5
    assert [one.reason for one in points.dropped] == ["compute is nan", "compute is inf"]


def test_other_quantities_take_their_standard_error(store):
    points = read_runs(connect(store), "main", quantity="reward").series[0].points
    np.testing.assert_allclose(points.variance, 0.02**2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experiment": "maim"}, "there are: .*main"),
        ({"experiment": "nothing"}, "no points"),
        ({"experiment": "main", "axis": "gpu_hours"}, "device_hours"),
        ({"experiment": "main", "axis": "tokens"}, "no scurve/tokens"),
        ({"experiment": "main", "quantity": "acc"}, "choose one of accuracy"),
        ({"experiment": "main", "quantity": "flops"}, "unknown quantity"),
        ({"experiment": "main", "runs": ["lnog"]}, "the experiment has: .*long"),
        ({"experiment": "main", "filter_string": "method is grpo"}, "refused"),
        ({"experiment": "mixed"}, "not one axis: H200 .*A100"),
    ],
)
def test_errors_name_what_came_and_what_to_change(store, options, message):
    with pytest.raises(InputError, match=message):
        read_runs(connect(store), **options)


def test_other_axes_may_mix_devices_and_equal_names_are_told_apart(store):
    names = [series.name for series in read_runs(connect(store), "mixed", axis="flops").series]
    assert len(set(names)) == 4
    assert names[2].startswith("twin (")


def test_a_missing_store_is_an_error_and_is_not_created(tmp_path):
    with pytest.raises(InputError, match="no MLflow store"):
        connect(f"sqlite:///{tmp_path / 'none.db'}")
    assert not (tmp_path / "none.db").exists()


def test_the_command_writes_logs_and_never_reads_itself(store, tmp_path, capsys):
    assert curve_fit("main", store, output=str(tmp_path)) == 0
    assert curve_fit("main", store, output=str(tmp_path), x="flops") == 0
    printed = capsys.readouterr().out
    assert "predictive band" in printed
    assert "more compute?" in printed
    document = json.loads((tmp_path / "curve.json").read_text())
    assert [curve["name"] for curve in document["curves"]] == ["long", "short"]
    curve = document["curves"][0]
    assert curve["parameters"]["A"]["low"] < 0.7 < curve["parameters"]["A"]["high"]
    assert len(curve["points"]) == 12
    assert document["axis"] == "scurve/flops"
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "curve.html").read_text()
    assert "Plotly.newPlot" in page
    assert 'src="http' not in page
    client = connect(store)
    experiment = client.get_experiment_by_name("main")
    own = client.search_runs([experiment.experiment_id], f"tags.`{KIND_TAG}` = '{CURVE_KIND}'")
    assert len(own) == 2
    logged = {one.path for one in client.list_artifacts(own[0].info.run_id)}
    assert logged == {"curve.json", "curve.png", "curve.html"}
    assert not own[0].data.metrics


def test_pooling_and_no_log(store, tmp_path):
    client = connect(store)
    experiment = client.get_experiment_by_name("main").experiment_id
    before = len(client.search_runs([experiment]))
    assert curve_fit("main", store, pool=True, log=False, output=str(tmp_path)) == 0
    assert len(client.search_runs([experiment])) == before
    curves = json.loads((tmp_path / "curve.json").read_text())["curves"]
    assert len(curves) == 1
    assert len(curves[0]["points"]) == 24
    assert len(curves[0]["run_ids"]) == 2


def test_an_experiment_without_any_fit_returns_1(store, tmp_path):
    client = connect(store)
    experiment = client.create_experiment("young")
    log_run(client, experiment, "young", 2, 1, count=2)
    assert curve_fit("young", store, log=False, output=str(tmp_path)) == 1
    curve = json.loads((tmp_path / "curve.json").read_text())["curves"][0]
    assert curve["fitted"] is False
    assert curve["flags"][0]["kind"] == "too few points"
