"""Every layout from a file of three rows, as JSON lines and as Parquet: what is read, and what is quarantined."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from lit_posttrain.data.formats import (
    Conversation,
    PreferenceRow,
    PromptRow,
    Row,
    StepwiseRow,
    TextRow,
    UnpairedRow,
)
from lit_posttrain.data.quarantine import QuarantineSettings
from lit_posttrain.data.sources import Table


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def says(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def sharegpt(question: str, answer: str) -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}


def shepherd(signs: str) -> dict[str, Any]:
    return {"input": "Q? Step 1: a ки\nStep 2: b ки", "label": "Q? Step 1: a {}\nStep 2: b {}".format(*signs)}


def prm(*ratings: int) -> dict[str, Any]:
    steps = [
        {"completions": [{"text": f"s{i}", "rating": r}], "chosen_completion": 0}
        for i, r in enumerate(ratings)
    ]
    return {"question": {"problem": "Q?"}, "label": {"steps": steps}}


QA = [("1+1", "2"), ("2+2", "4"), ("3+3", "6")]
CHATS: list[Row] = [Conversation([user(q), says(a)]) for q, a in QA]
PREFERENCES: list[Row] = [PreferenceRow([user(q)], [says(a)], [says("7")]) for q, a in QA]
ASKED = [user("Q?")]

# name of the layout, its three rows, what they say, a broken one, why
CASES: dict[str, tuple[str, list[dict[str, Any]], list[Row], dict[str, Any], str]] = {
    "text": ("text", [{"text": a} for _, a in QA], [TextRow(a) for _, a in QA], {"text": ""}, "text is empty"),
    "messages": (
        "messages", [{"messages": [user(q), says(a)]} for q, a in QA], CHATS,
        {"messages": [says("2"), user("1+1")]}, "must end in an answer",
    ),
    "prompt": (
        "prompt", [{"prompt": q} for q, _ in QA], [PromptRow([user(q)]) for q, _ in QA],
        {"prompt": None}, "prompt is missing",
    ),
    "prompt of messages": (
        "prompt", [{"prompt": [user(q)]} for q, _ in QA], [PromptRow([user(q)]) for q, _ in QA],
        {"prompt": [user("1"), user("2")]}, "message 1 is of role user",
    ),
    "prompt and completion": (
        "prompt_completion", [{"prompt": q, "completion": a} for q, a in QA], CHATS,
        {"prompt": "1+1", "completion": ""}, "the answer is empty",
    ),
    "prompt and completion of messages": (
        "prompt_completion", [{"prompt": [user(q)], "completion": [says(a)]} for q, a in QA], CHATS,
        {"prompt": [user("1")], "completion": [user("2")]}, "must begin with the assistant",
    ),
    "preference": (
        "preference", [{"prompt": q, "chosen": a, "rejected": "7"} for q, a in QA], PREFERENCES,
        {"prompt": "1+1", "chosen": "7", "rejected": "7"}, "are the same",
    ),
    "preference of messages": (
        "preference", [{"prompt": [user(q)], "chosen": [says(a)], "rejected": [says("7")]} for q, a in QA], PREFERENCES,
        {"prompt": [user("1")], "chosen": [says("1")], "rejected": None}, "rejected is missing",
    ),
    "implicit preference": (
        "preference_implicit", [{"chosen": f"{q} {a}", "rejected": f"{q} 7"} for q, a in QA],
        [PreferenceRow([user(q)], [says(f" {a}")], [says(" 7")]) for q, a in QA],
        {"chosen": "two", "rejected": "three"}, "share no first word",
    ),
    "implicit preference of messages": (
        "preference_implicit",
        [{"chosen": [user(q), says(a)], "rejected": [user(q), says("7")]} for q, a in QA], PREFERENCES,
        {"chosen": [user("1"), says("2")], "rejected": [user("2"), says("2")]}, "share no first message",
    ),
    "unpaired": (
        "unpaired", [{"prompt": q, "completion": a, "label": a != "4"} for q, a in QA],
        [UnpairedRow([user(q)], [says(a)], a != "4") for q, a in QA],
        {"prompt": "1+1", "completion": "2", "label": None}, "label is missing",
    ),
    "stepwise": (
        "stepwise", [{"prompt": q, "completions": ["a", "b"], "labels": [True, False]} for q, _ in QA],
        [StepwiseRow([user(q)], ["a", "b"], [1.0, 0.0]) for q, _ in QA],
        {"prompt": "1+1", "completions": ["a", "b"], "labels": [True]}, "2 steps, but 1 labels",
    ),
    "sharegpt": (
        "sharegpt", [sharegpt(q, a) for q, a in QA], CHATS,
        {"conversations": [{"from": "gpt", "value": "2"}]}, "must end in an answer",
    ),
    "alpaca": (
        "alpaca", [{"instruction": "Add.", "input": q, "output": a} for q, a in QA],
        [Conversation([user(f"Add.\n\n{q}"), says(a)]) for q, a in QA],
        {"instruction": " ", "input": "1", "output": "2"}, "instruction is empty",
    ),
    "prm800k": (
        "prm800k", [prm(1, -1), prm(0, 1), prm(1)],
        [
            StepwiseRow(ASKED, ["s0", "s1"], [1.0, 0.0]),
            StepwiseRow(ASKED, ["s0", "s1"], [0.5, 1.0]),
            StepwiseRow(ASKED, ["s0"], [1.0]),
        ],
        prm(2), "a rating must be",
    ),
    "math_shepherd": (
        "math_shepherd", [shepherd("++"), shepherd("+-"), shepherd("--")],
        [StepwiseRow(ASKED, ["Step 1: a", "Step 2: b"], labels) for labels in ([1.0, 1.0], [1.0, 0.0], [0.0, 0.0])],
        shepherd("+?"), "differs in step 1",
    ),
    "processbench": (
        "processbench", [{"problem": "Q?", "steps": ["a", "b"], "label": label} for label in (-1, 0, 1)],
        [StepwiseRow(ASKED, ["a", "b"], labels) for labels in ([1.0, 1.0], [0.0, None], [1.0, 0.0])],
        {"problem": "Q?", "steps": ["a", "b"], "label": 2}, "number of a step of 2",
    ),
}  # fmt: skip
NAMED = ("prm800k", "math_shepherd", "processbench")


def write(file: Path, rows: list[dict[str, Any]]) -> str:
    if file.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def table(path: str, name: str, limit: float) -> Table:
    quarantine = QuarantineSettings(limit, folder=str(Path(path).parent / "broken"))
    layout: Any = name if name in NAMED else None
    return Table(path, layout=layout, held_out_share=1e-9, neutral=0.5, quarantine=quarantine)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_three_rows(case: str, ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, rows, expected, _, _ = CASES[case]
    path = write(tmp_path / f"x.{ending}", [{**row, "id": i} for i, row in enumerate(rows)])
    source = table(path, name, 0.0)
    found = source.rows("train")
    assert list(found) == expected
    assert [found[i] for i in range(3)] == expected
    told = capsys.readouterr().out
    assert f"3 rows in the layout {name}, read from {', '.join(rows[0])}; columns not read: id" in told
    assert "broken" not in told
    assert not (tmp_path / "broken").exists()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_three_rows_and_a_broken_one(
    case: str, ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, rows, expected, broken, reason = CASES[case]
    path = write(tmp_path / f"x.{ending}", [rows[0], broken, *rows[1:]])
    assert list(table(path, name, 0.25).rows("train")) == expected
    told = capsys.readouterr().out
    assert "1 of 4 rows are broken and left out, listed in" in told
    assert "row 1 of x." in told
    (listed,) = (tmp_path / "broken").iterdir()
    (entry,) = map(json.loads, listed.read_text().splitlines())
    assert entry["row"] == 1
    assert reason in entry["reason"]
    assert set(entry["begins"]) >= set(broken)
