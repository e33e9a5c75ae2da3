"""What a resumed run logs again reaches MLflow once, and what a kill cut short is made whole."""

import json

from lit_posttrain.tracking.replay import Replay

KEY = "reward/mean"


def start(rewind):
    return {"kind": "start", "rewind": rewind}


def point(step, value, key=KEY):
    return {"kind": "metrics", "step": step, "values": {key: value}}


def rows(step, *texts):
    columns = {"step": [step] * len(texts), "text": list(texts)}
    return {"kind": "table", "artifact_file": "t.json", "columns": columns}


def replayed(folder, *records):
    (folder / "journal.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    replay = Replay(folder, 0)
    replay.read_on()
    return [record for record, _ in replay.pending], replay


def points(records):
    return [
        (record["step"], value)
        for record in records
        if record["kind"] == "metrics"
        for value in record["values"].values()
    ]


def test_a_step_that_drew_several_rollouts_keeps_all_of_them(tmp_path):
    whole = [point(0, 0.0), point(0, 0.1), point(4, 0.4), point(4, 0.5), point(4, 0.6)]
    kept, replay = replayed(tmp_path, start(False), *whole, start(True), *whole[2:])
    assert points(kept) == [(0, 0.0), (0, 0.1), (4, 0.4), (4, 0.5), (4, 0.6)]
    assert replay.repeated == 3


def test_a_kill_between_several_rollouts_of_a_step_loses_none(tmp_path):
    before = [point(0, 0.0), point(4, 0.4)]
    between = [point(4, 0.4), point(4, 0.5)]
    after = [point(4, 0.4), point(4, 0.5), point(4, 0.6), point(8, 0.8)]
    kept, _ = replayed(tmp_path, start(False), *before, start(True), *between, start(True), *after)
    assert points(kept) == [(0, 0.0), (4, 0.4), (4, 0.5), (4, 0.6), (8, 0.8)]


def test_metrics_are_told_apart(tmp_path):
    first = [point(3, 1.0), point(3, 2.0, "train/loss"), point(4, 1.5)]
    again = [point(4, 1.5), point(4, 2.5, "train/loss")]
    kept, _ = replayed(tmp_path, start(False), *first, start(True), *again)
    assert points(kept) == [(3, 1.0), (3, 2.0), (4, 1.5), (4, 2.5)]


def test_without_a_resume_nothing_is_left_out(tmp_path):
    logged = [point(5, 1.0), point(3, 2.0), point(3, 2.0)]
    kept, replay = replayed(tmp_path, start(False), *logged)
    assert points(kept) == [(5, 1.0), (3, 2.0), (3, 2.0)]
    assert replay.repeated == 0


def test_rows_of_a_table_are_there_once(tmp_path):
    kept, replay = replayed(
        tmp_path, start(False), rows(0, "a"), rows(4, "b"), start(True), rows(4, "b"), rows(8, "c")
    )
    assert sum(record["kind"] == "table" for record in kept) == 3
    assert replay.tables.contents["t.json"]["text"] == ["a", "b", "c"]


def test_rows_without_a_step_are_all_kept(tmp_path):
    table = {"kind": "table", "artifact_file": "t.json", "columns": {"text": ["a"]}}
    _, replay = replayed(tmp_path, start(False), table, start(True), table)
    assert replay.tables.contents["t.json"]["text"] == ["a", "a"]
