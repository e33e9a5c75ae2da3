import json
import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from lit_posttrain.errors import InputError
from lit_posttrain.tracking import delivery, replay
from lit_posttrain.tracking.journal import Journal
from lit_posttrain.tracking.store import Store, Unreachable
from lit_posttrain.tracking.sync import sync_command
from lit_posttrain.tracking.upload import upload

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """A sqlite store with its tables, made once: that takes seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    Store(f"sqlite:///{path}")
    return path


@pytest.fixture
def database(empty_database, tmp_path):
    return shutil.copy(empty_database, tmp_path / "mlflow.db")


@pytest.fixture
def uri(database):
    return f"sqlite:///{database}"


def start(uri, **changes):
    fields = {
        "kind": "start",
        "run_uid": "u1",
        "experiment": "arithmetic",
        "run_name": "calm-owl",
        "tracking_uri": uri,
        "tags": {"method": "grpo"},
        "start_time": 1_000_000,
        "rewind": False,
    }
    return fields | changes


def metrics(step, when=None, **values):
    return {"kind": "metrics", "step": step, "timestamp_ms": when or 1_000_000 + step, "values": values}


END = {"kind": "end", "status": "FINISHED", "timestamp_ms": 2_000_000}


def write(directory, *records):
    journal = Journal(directory)
    for record in records:
        journal.append(record)
    journal.close()


def query(database, text):
    with sqlite3.connect(database) as connection:
        rows = connection.execute(text).fetchall()
    connection.close()
    return rows


def points(database):
    return sorted(query(database, "select key, step, timestamp, value, is_nan from metrics"))


def refusing_uri():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


def test_everything_arrives_and_a_second_upload_changes_nothing(tmp_path, uri, database):
    run = tmp_path / "run"
    write(
        run,
        start(uri),
        {"kind": "params", "values": {"lr": "0.1"}},
        *[metrics(step, loss=1 / (step + 1), reward=0.5) for step in range(700)],
        metrics(700, loss=math.nan, reward=math.inf),
        {"kind": "tags", "values": {"a": "b"}},
        {
            "kind": "dataset",
            "name": "sums",
            "source": "made/up",
            "digest": "0" * 64,
            "context": "training",
            "profile": "{}",
        },
        END,
    )
    report = upload(run)
    assert (report.state, report.points, report.refused) == ("complete", 1402, 0)
    expected = [("loss", s, 1_000_000 + s, 1 / (s + 1), 0) for s in range(700)]
    expected += [("reward", s, 1_000_000 + s, 0.5, 0) for s in range(700)]
    expected += [("loss", 700, 1_000_700, 0.0, 1), ("reward", 700, 1_000_700, sys.float_info.max, 0)]
    assert points(database) == sorted(expected)
    again = upload(run)
    assert (again.state, again.points, again.present) == ("complete", 0, 0)
    assert query(database, "select name, status, start_time, end_time from runs") == [
        ("calm-owl", "FINISHED", 1_000_000, 2_000_000)
    ]
    assert dict(query(database, "select key, value from params")) == {"lr": "0.1"}
    tags = dict(query(database, "select key, value from tags"))
    assert {"method": "grpo", "a": "b", "lit_posttrain.run_uid": "u1"}.items() <= tags.items()
    assert query(database, "select name from datasets") == [("sums",)]
    location = query(database, "select artifact_location from experiments where name = 'arithmetic'")
    assert location == [(str(tmp_path / "mlartifacts" / "arithmetic"),)]


def test_without_its_bookkeeping_it_asks_the_store_what_is_there(tmp_path, uri, database):
    run = tmp_path / "run"
    write(run, start(uri), *[metrics(step, loss=step) for step in range(50)])
    upload(run)
    (run / delivery.PROGRESS).unlink()
    write(run, *[metrics(step, loss=step) for step in range(50, 60)])
    report = upload(run)
    assert (report.present, report.points) == (50, 10)
    assert [step for _, step, *_ in points(database)] == list(range(60))
    assert len(query(database, "select * from runs")) == 1


@pytest.mark.parametrize("arrives", [True, False])
def test_a_batch_whose_answer_is_lost_arrives_once(tmp_path, uri, database, monkeypatch, arrives):
    run = tmp_path / "run"
    write(run, start(uri), *[metrics(step, loss=step) for step in range(30)], END)
    log_points, calls = Store.log_points, []

    def cut(self, run_id, batch):
        calls.append(len(batch))
        if len(calls) == 2:
            if arrives:
                log_points(self, run_id, batch)
            raise Unreachable("connection reset")
        log_points(self, run_id, batch)

    monkeypatch.setattr(Store, "log_points", cut)
    monkeypatch.setattr(delivery, "METRICS_A_CALL", 10)
    first = upload(run)
    assert (first.state, first.points) == ("unreachable", 10)
    second = upload(run)
    assert (second.state, second.present) == ("complete", 20 if arrives else 10)
    assert [step for _, step, *_ in points(database)] == list(range(30))


def test_killed_run_is_synced_and_its_resumption_is_one_run(tmp_path, uri, database):
    run = tmp_path / "run"
    code = """
import json, sys, time
from lit_posttrain.tracking.journal import Journal
journal = Journal(sys.argv[1])
journal.append(json.loads(sys.argv[2]))
step = 0
while True:
    values = {"loss": step}
    journal.append({"kind": "metrics", "step": step, "timestamp_ms": 1000000 + step, "values": values})
    step += 1
    if step == 200: print("go", flush=True)
    if step > 200: time.sleep(0.002)
"""
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(run), json.dumps(start(uri))], stdout=subprocess.PIPE
    )
    writer.stdout.readline()
    assert upload(run).state == "running"
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert upload(run).state == "complete"
    logged = sum(b'"metrics"' in line for line in (run / "journal.jsonl").read_bytes().splitlines(True)[:-1])
    steps = [step for _, step, *_ in points(database)]
    assert logged >= 200
    assert steps == list(range(len(steps)))
    assert len(steps) - logged in (0, 1)  # the last line may be whole
    assert query(database, "select status from runs") == [("KILLED",)]

    resumed = [metrics(step, 5_000_000 + step, loss=step) for step in range(150, len(steps) + 20)]
    write(run, start(uri, rewind=True, start_time=4_000_000), *resumed, END)
    report = upload(run)
    assert report.repeated == len(steps) - 150
    assert [step for _, step, *_ in points(database)] == list(range(len(steps) + 20))
    assert query(database, "select status, start_time from runs") == [("FINISHED", 1_000_000)]


def test_the_uploader_of_a_vanished_process_delivers_and_says_killed(tmp_path, uri, database):
    run = tmp_path / "run"
    write(run, start(uri), metrics(1, loss=1.0))
    assert upload(run, follow=True, parent=-1).state == "complete"
    assert points(database) == [("loss", 1, 1_000_001, 1.0, 0)]
    assert query(database, "select status from runs") == [("KILLED",)]


def test_an_unreachable_server_costs_a_moment_and_loses_nothing(tmp_path, database, capsys):
    run, uri = tmp_path / "runs" / "e" / "r", refusing_uri()
    write(run, start(uri), metrics(1, loss=1.0), END)
    began = time.monotonic()
    assert sync_command(root=str(tmp_path / "runs")) == 1
    assert time.monotonic() - began < 5
    assert f"MLflow at {uri} does not answer" in capsys.readouterr().err
    assert sync_command([str(run)], tracking_uri=f"sqlite:///{database}") == 0
    assert points(database) == [("loss", 1, 1_000_001, 1.0, 0)]


def test_what_the_store_refuses_is_set_aside_and_the_rest_arrives(tmp_path, uri, database):
    run = tmp_path / "run"
    write(run, start(uri), metrics(1, **{"loss": 1.0, "bad@name": 2.0, "reward": 3.0}), END)
    report = upload(run)
    assert (report.state, report.points, report.refused) == ("complete", 2, 1)
    assert [key for key, *_ in points(database)] == ["loss", "reward"]
    refused = json.loads((run / delivery.REFUSED).read_text())
    assert refused["record"]["key"] == "bad@name"
    assert "bad@name" in refused["reason"]


def test_long_values_become_artifacts_and_changed_parameters_a_tag(tmp_path, uri, database):
    run = tmp_path / "run"
    values = {f"p{i}": "v" for i in range(150)} | {
        "prompt": "é" * 6001,
        "a" * 300: "kept",
        "fits": "x" * 6000,
    }
    write(run, start(uri, tags={"note": "n" * 8001}), {"kind": "params", "values": values})
    assert upload(run).refused == 0
    params = dict(query(database, "select key, value from params"))
    assert len(params) == 153
    assert params["fits"] == "x" * 6000
    assert params["prompt"].startswith("6001 characters, in artifact params/prompt.txt")
    assert next(key for key, value in params.items() if value == "kept").startswith("a" * 200)
    (folder,) = query(database, "select artifact_uri from runs")[0]
    assert Path(folder, "params/prompt.txt").read_text() == "é" * 6001
    assert Path(folder, "tags/note.txt").read_text() == "n" * 8001
    write(
        run,
        start(uri, rewind=True),
        {"kind": "params", "values": {"p1": "w", "p2": "v", "prompt": "é" * 6002}},
    )
    assert upload(run).refused == 0
    assert dict(query(database, "select key, value from params"))["p1"] == "v"
    tags = dict(query(database, "select key, value from tags"))
    assert tags["lit_posttrain.params_changed"] == "p1, prompt"


def test_tables_are_cut_and_a_replay_writes_the_same_files(tmp_path, uri, database, monkeypatch):
    monkeypatch.setattr(replay, "ROWS_A_TABLE", 4)
    run = tmp_path / "run"

    def table(step):
        cells = {"step": [step, step], "reward": [math.nan, 1.0]}
        return {"kind": "table", "artifact_file": "t/rows.json", "columns": cells}

    write(run, start(uri), table(1), table(2), table(3))
    upload(run)
    write(run, table(4), table(5), END)
    upload(run)
    (folder,) = query(database, "select artifact_uri from runs")[0]

    def contents():
        return {path.name: json.loads(path.read_text()) for path in sorted(Path(folder, "t").iterdir())}

    assert {name: [row[0] for row in file["data"]] for name, file in contents().items()} == {
        "rows.json": [1, 1, 2, 2],
        "rows_001.json": [3, 3, 4, 4],
        "rows_002.json": [5, 5],
    }
    before = contents()
    assert before["rows.json"]["data"][0] == [1, "nan"]
    (run / delivery.PROGRESS).unlink()
    upload(run)
    assert contents() == before
    tags = dict(query(database, "select key, value from tags"))
    assert len(json.loads(tags["mlflow.loggedArtifacts"])) == 3


def test_a_password_in_the_address_must_be_given_again(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write(tmp_path / "run", start("https://[redacted]@mlflow.example.org"), END)
    with pytest.raises(InputError, match="tracking_uri"):
        upload(tmp_path / "run")


def test_sync_says_what_is_missing(tmp_path, capsys):
    assert sync_command(root=str(tmp_path)) == 0
    assert "no run" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"has no journal\.jsonl"):
        sync_command([str(tmp_path)])


@pytest.mark.slow
def test_eight_runs_start_one_database_at_once(tmp_path):
    uri = f"sqlite:///{tmp_path / 'fresh' / 'mlflow.db'}"
    command = [sys.executable, "-m", "lit_posttrain.tracking.upload"]
    for i in range(8):
        write(tmp_path / str(i), start(uri, run_uid=f"u{i}"), *[metrics(s, loss=s) for s in range(200)], END)
    uploads = [
        subprocess.Popen([*command, str(tmp_path / str(i)), "--follow"], stdout=subprocess.PIPE, text=True)
        for i in range(8)
    ]
    assert all("complete" in process.communicate()[0] for process in uploads)
    assert len(points(tmp_path / "fresh" / "mlflow.db")) == 1600
    assert query(tmp_path / "fresh" / "mlflow.db", "select count(*) from experiments") == [(2,)]


def serve(database, port):
    environment = os.environ | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{database}", "--workers", "1"]
    command += ["--artifacts-destination", str(database.parent / "artifacts")]
    server = subprocess.Popen(command, env=environment, start_new_session=True)
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
            return server
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server did not start")


def stop(server):
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


@pytest.mark.slow
def test_a_server_killed_in_mid_run_and_started_again_has_every_point_once(tmp_path, database):
    uri = refusing_uri()
    port = int(uri.rsplit(":", 1)[1])
    run = tmp_path / "run"
    server = serve(database, port)
    journal = Journal(run)
    command = [sys.executable, "-m", "lit_posttrain.tracking.upload", str(run), "--follow"]
    journal.append(start(uri))
    uploader = subprocess.Popen([*command, "--parent", str(os.getpid())])
    try:
        for step in range(600):
            journal.append(metrics(step, **{f"m{k}": step + k / 10 for k in range(10)}))
            time.sleep(0.02)
            if step == 300:
                stop(server)
            if step == 450:
                server = serve(database, port)
        journal.append({"kind": "table", "artifact_file": "t/a.json", "columns": {"a": [1]}})
        journal.append(metrics(600, m0=math.nan, m1=-math.inf))
        journal.append(END)
        journal.close()
        assert uploader.wait(timeout=90) == 0
        assert sync_command([str(run)]) == 0
    finally:
        stop(server)
        uploader.kill()
    found = points(database)
    expected = {(f"m{k}", step, step + k / 10) for k in range(10) for step in range(600)}
    expected |= {("m0", 600, 0.0), ("m1", 600, -sys.float_info.max)}
    assert len(found) == 6002
    assert {(key, step, value) for key, step, _, value, _ in found} == expected
    assert query(database, "select status from runs") == [("FINISHED",)]
