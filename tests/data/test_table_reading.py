"""Files of every kind give the same rows, in order; what cannot be read ends in one message."""

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from lit_posttrain.batches import Problem
from lit_posttrain.data.formats import Conversation, PreferenceRow, StepwiseRow, TextRow, UnpairedRow
from lit_posttrain.data.quarantine import QuarantineSettings
from lit_posttrain.data.sources import Table, reports
from lit_posttrain.data.sources.rows import read_splits, stamp_of
from lit_posttrain.errors import InputError

ROWS = [{"prompt": f"{i}+{i}", "completion": f"{2 * i}", "margin": None} for i in range(2500)]
ASKED, ANSWERED = {"role": "user", "content": "2+3?"}, {"role": "assistant", "content": "5"}


def as_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_all(folder: Path) -> list[Path]:
    """The same rows in every kind of file, and as `datasets` saves them."""
    text = as_lines(ROWS)
    (folder / "a.jsonl").write_text("\ufeff" + text.replace("\n", "\r\n\n"))
    with gzip.open(folder / "b.jsonl.gz", "wt") as stream:
        stream.write(text)
    (folder / "c.json").write_text(json.dumps(ROWS))
    (folder / "d.json").write_text(text)
    cells = "".join(f'"{row["prompt"]}",{row["completion"]},\r\n' for row in ROWS)
    (folder / "e.csv").write_text("\ufeffprompt,completion,margin\r\n" + cells)
    parquet.write_table(pa.Table.from_pylist(ROWS), folder / "f.parquet", row_group_size=700)
    datasets.Dataset.from_list(ROWS).save_to_disk(str(folder / "g"))
    datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)).save_to_disk(str(folder / "h"))
    return sorted(folder.iterdir())


@pytest.fixture(autouse=True)
def quiet() -> None:
    datasets.disable_progress_bars()


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    places = write_all(tmp_path / "files")
    assert len(places) == 8
    for place in places:
        table = Table(str(place), held_out_share=0.1)
        chats = table.chats("train")
        assert 1900 < len(chats) < 2100, place
        pairs = [tuple(message["content"] for message in chat) for chat in chats]
        wanted = {(row["prompt"], row["completion"]): i for i, row in enumerate(ROWS)}
        numbers = [wanted[question, answer] for question, answer in pairs]
        assert numbers == sorted(numbers), place
        assert chats[-1] == list(chats)[-1]
        assert chats[1000:1002] == list(chats)[1000:1002]
        assert sum(len(table.rows(split)) for split in ("train", "validation", "test")) == 2500
        again = pickle.loads(pickle.dumps(table.rows("train")._raw))  # type: ignore[attr-defined]
        assert again[7]["prompt"] == "7+7", place


def test_files_of_a_split_are_read_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "train-0.jsonl").write_text(as_lines(ROWS[:3]))
    parquet.write_table(pa.Table.from_pylist(ROWS[3:5]), tmp_path / "train-1.parquet")
    (tmp_path / "test.csv").write_text("prompt,completion\na,b\n")
    raw = read_splits(str(tmp_path))
    assert [row["prompt"] for row in raw["train"]] == ["0+0", "1+1", "2+2", "3+3", "4+4"]  # type: ignore[index]
    assert raw["train"][-1]["prompt"] == "4+4"  # type: ignore[index]
    assert [raw["train"].place(i) for i in (2, 3)] == ["train-0.jsonl, line 3", "train-1.parquet"]
    assert [p.reference for p in Table(str(tmp_path)).problems("test")] == ["b"]


def test_csv_cells_say_what_their_layout_wants(tmp_path: Path) -> None:
    rows = 'prompt,completion,label,tools\n5,"a, ""b""\nc",True,\n[1],0,0,\n'
    (tmp_path / "x.csv").write_text(rows)
    read = Table(str(tmp_path / "x.csv"), held_out_share=1e-9).rows("train")
    assert list(read) == [
        UnpairedRow(
            [{"role": "user", "content": "5"}], [{"role": "assistant", "content": 'a, "b"\nc'}], True
        ),
        UnpairedRow([{"role": "user", "content": "[1]"}], [{"role": "assistant", "content": "0"}], False),
    ]
    (tmp_path / "y.csv").write_text('prompt,completions,labels\nQ,"[""a"", ""b""]","[1, null]"\n')
    read = Table(str(tmp_path / "y.csv"), held_out_share=1e-9).rows("train")
    assert list(read) == [StepwiseRow([{"role": "user", "content": "Q"}], ["a", "b"], [1.0, None])]


def test_broken_csv_rows_are_quarantined(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b'text,id\na,1\n\nb\n"\xff",3\n"' + b"c" * 200_000 + b'",4\n')
    settings = QuarantineSettings(0.5, folder=str(tmp_path))
    read = Table(str(tmp_path / "x.csv"), held_out_share=1e-9, quarantine=settings).rows("train")
    assert list(read) == [TextRow("a"), TextRow("c" * 200_000)]
    (listed,) = tmp_path.glob("*-train-*.jsonl")
    first, second = map(json.loads, listed.read_text().splitlines())
    assert "line 4 of" in first["reason"]
    assert "has 1 cells, but the header has 2" in first["reason"]
    assert (second["row"], second["reason"]) == (2, "text holds a byte that is no UTF-8 at position 0")


def test_bytes_in_parquet_that_are_no_text_are_quarantined(tmp_path: Path) -> None:
    buffers = pa.array([b"a", b"\xff", b"c"]).buffers()
    texts = pa.Array.from_buffers(pa.string(), 3, buffers)
    parquet.write_table(pa.table({"text": texts}), tmp_path / "x.parquet")
    settings = QuarantineSettings(0.5, folder=str(tmp_path))
    table = Table(str(tmp_path / "x.parquet"), held_out_share=1e-9, quarantine=settings)
    assert list(table.rows("train")) == [TextRow("a"), TextRow("c")]


def test_fields_that_parquet_made_up_are_gone(tmp_path: Path) -> None:
    def call(**arguments: int) -> dict[str, Any]:
        return {"type": "function", "function": {"name": "f", "arguments": arguments}}

    chats = [[ASKED, {"role": "assistant", "content": "", "tool_calls": [call(**{key: 1})]}] for key in "ab"]
    parquet.write_table(pa.Table.from_pylist([{"messages": chat} for chat in chats]), tmp_path / "x.parquet")
    read = Table(str(tmp_path / "x.parquet"), held_out_share=1e-9).rows("train")
    assert list(read) == [Conversation(chat) for chat in chats]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.parquet", b"PAR1 and no more", "x.parquet is no readable Parquet file"),
        ("x.parquet", b"", "x.parquet is no readable Parquet file"),
        ("x.jsonl.gz", b"no gzip", "x.jsonl.gz cannot be read"),
        ("x.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 1000, mtime=0)[:-20], "x.jsonl.gz cannot be read"),
        ("x.json", b"[1, ", "x.json is no JSON"),
        ("x.json", b"3", "x.json must be a JSON list of objects, but is b'3'"),
        ("x.csv", b"", "must begin with a header"),
        ("x.csv", b"a,a\n1,2\n", "names every column once"),
        ("x.txt", b"text", "its name must end in .jsonl"),
        ("x.jsonl", b"\xff\xfe\n", "no row of .* can be read: line 1 of .* is no UTF-8"),
    ],
)
def test_files_that_cannot_be_read_are_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        Table(str(tmp_path / name)).rows("train")


def test_a_parquet_file_that_is_damaged_inside_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    parquet.write_table(pa.Table.from_pylist(ROWS), file)
    whole = bytearray(file.read_bytes())
    whole[10:400] = b"\xff" * 390
    file.write_bytes(whole)
    with pytest.raises(InputError, match="is no readable Parquet file"):
        Table(str(file)).rows("train")


def test_a_damaged_folder_of_datasets_is_named(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS[:5]).save_to_disk(str(tmp_path / "g"))
    next((tmp_path / "g").glob("*.arrow")).write_bytes(b"no arrow")
    with pytest.raises(InputError, match="is no readable folder of datasets"):
        Table(str(tmp_path / "g")).rows("train")


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text(as_lines(ROWS[:4]))
    table = Table(str(file), held_out_share=1e-9)
    before, count = table.fingerprint("train"), len(table.rows("train"))
    assert table.fingerprint("train") == before != table.fingerprint("test")
    file.write_text(as_lines(ROWS[:7]))
    assert (count, len(table.rows("train"))) == (4, 7)
    assert table.fingerprint("train") != before
    assert stamp_of("some/hub") == ()


def test_fingerprints_follow_settings_and_not_places(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.jsonl").write_text(as_lines(ROWS[:4]))
    one, other = Table(str(tmp_path / "a" / "x.jsonl")), Table(str(tmp_path / "b" / "x.jsonl"))
    assert one.fingerprint("train") == other.fingerprint("train")
    reversed_ = Table(one.path, prompt="completion", completion="prompt")
    assert reversed_.fingerprint("train") != one.fingerprint("train")


def test_a_report_is_printed_though_nobody_reads_the_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "LARGE_ROWS", 4)
    file = tmp_path / "x.jsonl"
    file.write_text(as_lines([*ROWS[:5], {"prompt": "a"}]))
    settings = QuarantineSettings(0.2, folder=str(tmp_path / "broken"))
    for _ in range(2):
        reports.say.cache_clear()
        table = Table(str(file), quarantine=settings)
        table.fingerprint("train")
        assert "1 of 6 rows are broken" in capsys.readouterr().out
    assert not table._surveys  # the second time from what was kept
    file.write_text(as_lines(ROWS[:6]))
    table.fingerprint("train")
    assert "6 rows in the layout prompt_completion" in capsys.readouterr().out
    assert [f.suffix for f in (tmp_path / "broken").iterdir()] == [".report"]


PREFERENCE = {"prompt": "2+3?", "chosen": "5", "rejected": "6"}


def one_row(tmp_path: Path, row: dict[str, Any], **settings: Any) -> Table:
    (tmp_path / "x.jsonl").write_text(as_lines([row]))
    return Table(str(tmp_path / "x.jsonl"), held_out_share=1e-9, **settings)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (PREFERENCE, "reward models and DPO learn from; .* set learn_chosen: true"),
        ({"prompt": "a", "completion": "b", "label": True}, r"\(KTO\) learn from.*layout: prompt_completion"),
        ({"prompt": "a", "completions": ["b"], "labels": [True]}, "process reward models learn from"),
        ({"prompt": "a"}, "no worked answers to train on"),
    ],
)
def test_rows_for_other_methods_are_refused(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        one_row(tmp_path, row).chats("train")


def test_what_supervised_training_learns_from(tmp_path: Path) -> None:
    assert list(one_row(tmp_path, PREFERENCE, learn_chosen=True).chats("train")) == [[ASKED, ANSWERED]]
    assert list(one_row(tmp_path, {"text": "a"}).chats("train")) == [TextRow("a")]
    assert list(one_row(tmp_path, {"body": "a"}, columns={"text": "body"}).chats("train")) == [TextRow("a")]
    weighted = {"messages": [ASKED, {**ANSWERED, "weight": 0.5}]}
    (row,) = one_row(tmp_path, weighted).chats("train")
    assert row == Conversation(weighted["messages"])
    tools = {"messages": [ASKED, ANSWERED], "tools": [{"name": "add"}]}
    (row,) = one_row(tmp_path, tools).chats("train")
    assert row.tools == [{"name": "add"}]
    unpaired = {"prompt": "2+3?", "completion": "5", "label": False}
    assert list(one_row(tmp_path, unpaired, layout="prompt_completion").chats("train")) == [[ASKED, ANSWERED]]


def test_prompts_of_any_layout_are_problems(tmp_path: Path) -> None:
    plain = one_row(tmp_path, {"prompt": "2+3?", "gold": 5}, reference="gold").problems("train")
    source = str(tmp_path / "x.jsonl")
    assert plain == [Problem((ASKED,), 5, plain[0].uid, source)]
    paired = one_row(tmp_path, {**PREFERENCE, "gold": 5}, reference="gold").problems("train")
    assert paired == plain
    (row,) = one_row(tmp_path, {"prompt": "2+3?", "gold": 5}, reference="gold").rows("train")
    assert row.reference == 5  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("row", "settings", "message"),
    [
        ({"text": "a"}, {}, "holds texts without prompts"),
        ({"prompt": "a", "tools": [{"name": "add"}]}, {"reference": "prompt"}, "names tools, which no rollout offers"),
        (PREFERENCE, {}, "nothing to grade by; set reference"),
        ({"prompt": "a", "gold": None}, {"reference": "gold"}, "gold is missing"),
        ({"text": "a"}, {"columns": {"text": "body"}}, "no column body; it has text"),
        ({"text": "a"}, {"columns": {"title": "text"}, "layout": "text"}, "reads no title"),
        ({"text": "a"}, {"layout": "messages"}, "no column messages, which the layout messages needs"),
        ({"text": "a", "prompt": "b"}, {}, "set layout to the one that is meant: text or prompt"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_named(
    row: dict[str, Any], settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    settings = {**settings, "quarantine": QuarantineSettings(folder=str(tmp_path / "broken"))}
    with pytest.raises(InputError, match=message):
        one_row(tmp_path, row, **settings).problems("train")


def test_an_explicit_layout_decides(tmp_path: Path) -> None:
    both = {**PREFERENCE, "messages": [ASKED, ANSWERED]}
    assert list(one_row(tmp_path, both, layout="messages").rows("train")) == [Conversation([ASKED, ANSWERED])]
    (row,) = one_row(tmp_path, both, layout="preference").rows("train")
    assert row == PreferenceRow([ASKED], [ANSWERED], [{"role": "assistant", "content": "6"}])


def test_a_neutral_label_is_in_range() -> None:
    with pytest.raises(InputError, match=r"neutral is a label in \[0, 1\]"):
        Table("x.jsonl", neutral=2.0)


def test_fields_of_messages_that_are_not_read_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one_row(tmp_path, {"messages": [{**ASKED, "id": 1}, ANSWERED], "n": 2}).chats("train")
    told = capsys.readouterr().out
    assert "columns not read: n" in told
    assert "fields of messages that are not read: id" in told
