import json
import math
import os
import subprocess
import sys

import pytest

from lit_posttrain.errors import InputError
from lit_posttrain.tracking.journal import FILE, Journal, is_being_written, read


def records(directory):
    return [entry.record for entry in read(directory)]


def test_gives_back_what_was_appended_nan_and_infinities_included(tmp_path):
    journal = Journal(tmp_path)
    journal.append(
        {"kind": "metrics", "step": 1, "values": {"a": float("nan"), "b": float("-inf"), "c": 0.1}}
    )
    journal.append({"kind": "tags", "values": {"text": "line one\nline two \ud800 ü"}})
    journal.close()
    first, second = records(tmp_path)
    assert math.isnan(first["values"]["a"])
    assert (first["values"]["b"], first["values"]["c"]) == (-math.inf, 0.1)
    assert second["values"]["text"] == "line one\nline two \ud800 ü"


def test_offsets_are_where_reading_goes_on(tmp_path):
    journal = Journal(tmp_path)
    for step in range(3):
        journal.append({"kind": "metrics", "step": step})
    journal.close()
    ends = [entry.end for entry in read(tmp_path)]
    assert ends[-1] == (tmp_path / FILE).stat().st_size
    assert [entry.record["step"] for entry in read(tmp_path, ends[0])] == [1, 2]


def test_a_line_torn_by_a_kill_is_left_out_and_does_not_spoil_the_next(tmp_path):
    journal = Journal(tmp_path)
    journal.append({"kind": "metrics", "step": 1})
    journal.close()
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"kind":"metrics","st')
    assert records(tmp_path) == [{"kind": "metrics", "step": 1}]
    journal = Journal(tmp_path)
    journal.append({"kind": "metrics", "step": 2})
    journal.close()
    assert records(tmp_path) == [{"kind": "metrics", "step": 1}, None, {"kind": "metrics", "step": 2}]


def test_a_complete_last_line_without_its_newline_is_kept(tmp_path):
    (tmp_path / FILE).write_text(json.dumps({"kind": "metrics", "step": 1}))
    Journal(tmp_path).close()
    journal = Journal(tmp_path)
    journal.append({"kind": "metrics", "step": 2})
    journal.close()
    assert [record["step"] for record in records(tmp_path)] == [1, 2]


def test_a_full_disk_warns_once_and_loses_nothing(tmp_path, monkeypatch):
    journal, write = Journal(tmp_path), os.write
    journal.append({"kind": "metrics", "step": 0})

    def full(file, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.warns(UserWarning, match="Free some space"):
        journal.append({"kind": "metrics", "step": 1})
    journal.append({"kind": "metrics", "step": 2})
    monkeypatch.setattr(os, "write", lambda file, data: write(file, bytes(data)[:7]))  # short writes, too
    journal.append({"kind": "metrics", "step": 3})
    journal.close()
    assert [record["step"] for record in records(tmp_path)] == [0, 1, 2, 3]


def test_one_process_at_a_time_writes(tmp_path):
    code = (
        "import sys; from lit_posttrain.tracking.journal import Journal; "
        "journal = Journal(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert writer.stdout.readline() == b"open\n"
    assert is_being_written(tmp_path)
    with pytest.raises(InputError, match="another process"):
        Journal(tmp_path)
    writer.kill()
    writer.communicate()
    assert not is_being_written(tmp_path)
    Journal(tmp_path).close()


def test_uploading_needs_neither_torch_nor_lightning_nor_mlflow_to_start():
    code = (
        "import sys, lit_posttrain.tracking.sync as s; "
        "print(sorted({'torch', 'lightning', 'mlflow', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
