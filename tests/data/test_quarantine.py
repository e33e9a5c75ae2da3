"""Broken rows are listed, counted and borne up to a limit; nothing is dropped unsaid."""

import json
from pathlib import Path
from typing import Any

import pytest

from lit_posttrain.data.formats import Unreadable
from lit_posttrain.data.quarantine import Quarantine, QuarantineSettings
from lit_posttrain.data.sources import Table
from lit_posttrain.errors import InputError

HUNDRED = [{"prompt": f"{i}", "completion": f"{i}!"} for i in range(100)]


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def table(tmp_path: Path, rows: list[str], **settings: Any) -> Table:
    (tmp_path / "x.jsonl").write_bytes(
        b"".join(row.encode("utf-8", "surrogateescape") + b"\n" for row in rows)
    )
    quarantine = QuarantineSettings(folder=str(tmp_path / "broken"), **settings)
    return Table(str(tmp_path / "x.jsonl"), held_out_share=1e-9, quarantine=quarantine)


def test_one_in_a_hundred_is_borne_and_two_are_not(tmp_path: Path) -> None:
    rows = [json.dumps(row) for row in HUNDRED]
    rows[40] = '{"prompt": "40"}'
    source = table(tmp_path, rows)
    assert len(source.chats("train")) == 99
    assert [chat[0]["content"] for chat in source.chats("train")] == [str(i) for i in range(100) if i != 40]
    assert len({p.uid for p in source.problems("train")}) == 99
    rows[50] = "{"
    with pytest.raises(InputError) as stopped:
        table(tmp_path, rows).rows("train")
    told = str(stopped.value)
    assert "2 of 100 rows of" in told
    assert "at most 1.00% may be" in told
    assert "row 40 of x.jsonl, line 41: completion is missing; row 50 of x.jsonl, line 51: line 51 of" in told
    assert "raise quarantine.max_bad_fraction" in told
    (file,) = (tmp_path / "broken").iterdir()
    assert str(file) in told
    assert [entry["row"] for entry in lines(file)] == [40, 50]
    assert lines(file)[1]["begins"] == repr("{\n")


def test_a_run_that_cannot_go_on_stops_after_three_reasons(tmp_path: Path) -> None:
    rows = ['{"prompt": "a", "completion": "b"}', *['{"prompt": "a", "completion": 1}'] * 99]
    with pytest.raises(InputError, match=r"3 of the first 4 rows \(of 100\)") as stopped:
        table(tmp_path, rows).rows("train")
    assert str(stopped.value).count("must be a text or a list of messages, but is 1") == 3


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"prompt": "a", ', "is no JSON"),
        ('{"prompt": "\udcff", "completion": "b"}', "is no UTF-8 at byte 12"),
        (r'{"prompt": "a\u0000", "completion": "b"}', "prompt holds a NUL character at position 1"),
        ('{"prompt": "a\x00", "completion": "b"}', "is no JSON"),
        (r'{"prompt": "a", "completion": "\ud800"}', "completion holds the lone surrogate 0xd800"),
        ('["a", "b"]', "must be a JSON dict"),
        ("[" * 100_000, "is no JSON"),
        ('{"prompt": "a", "completion": "' + "b" * 10_000_000 + '"}', "more than 8,000,000 characters"),
        ('{"prompt": "a", "completion": ' + "1" * 5000 + "}", "is no JSON"),
    ],
    ids=["cut", "latin-1", "NUL", "raw NUL", "surrogate", "list", "deep", "10 MB", "long number"],
)
def test_what_no_layout_can_read(row: str, reason: str, tmp_path: Path) -> None:
    good = json.dumps(HUNDRED[0])
    source = table(tmp_path, [good, row, good], max_bad_fraction=0.4)
    assert len(source.rows("train")) == 2
    (file,) = (tmp_path / "broken").iterdir()
    (entry,) = lines(file)
    assert entry["row"] == 1
    assert reason in entry["reason"]
    assert file.stat().st_size < 2000


def test_a_row_of_the_largest_size_is_read(tmp_path: Path) -> None:
    good = json.dumps({"prompt": "abc", "completion": "de"})
    assert len(table(tmp_path, [good], max_row_characters=5).rows("train")) == 1
    with pytest.raises(
        InputError, match=r"more than 4 characters of text, up to completion.*max_row_characters"
    ):
        table(tmp_path, [good], max_row_characters=4).rows("train")


def test_a_list_of_broken_rows_goes_when_they_are_repaired(tmp_path: Path) -> None:
    file = tmp_path / "list.jsonl"
    quarantine = Quarantine(file, 1.0, rows=2, name="x")
    quarantine.add(1, "empty", Unreadable("empty", "abc"), "x, line 2")
    quarantine.close()
    assert lines(file) == [{"row": 1, "reason": "empty", "place": "x, line 2", "begins": "'abc'"}]
    assert quarantine.told() == (
        f"1 of 2 rows are broken and left out, listed in {file}: row 1 of x, line 2: empty"
    )
    repaired = Quarantine(file, 1.0, rows=2)
    repaired.close()
    assert not file.exists()
    assert repaired.told() == ""


def test_the_limit_is_a_share_that_may_be_reached() -> None:
    with pytest.raises(InputError, match=r"max_bad_fraction in \[0, 1\]"):
        QuarantineSettings(max_bad_fraction=2)
    with pytest.raises(InputError, match="max_row_characters >= 1"):
        QuarantineSettings(max_row_characters=0)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken").write_text("a file, no folder")
    with pytest.raises(InputError, match=r"cannot be listed in .*set quarantine.folder"):
        table(tmp_path, ["{", json.dumps(HUNDRED[0])], max_bad_fraction=0.5).rows("train")


def test_the_default_folder_is_in_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert QuarantineSettings().file("x.jsonl") == tmp_path / "lit-posttrain" / "quarantine" / "x.jsonl"
