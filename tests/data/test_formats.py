"""Column layouts become conversations; broken rows are named."""

from typing import Any

import pytest

from lit_posttrain.data.formats import Chat, prompt_only, question_answer, recognise, to_chat, to_chats
from lit_posttrain.errors import InputError

ASKED, ANSWERED = {"role": "user", "content": "2+3?"}, {"role": "assistant", "content": "5"}
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        ("messages", {"messages": [SYSTEM, ASKED, ANSWERED]}, [SYSTEM, ASKED, ANSWERED]),
        ("prompt/completion", {"prompt": "2+3?", "completion": "5"}, [ASKED, ANSWERED]),
        (
            "prompt/completion",
            {"prompt": [SYSTEM, ASKED], "completion": [ANSWERED]},
            [SYSTEM, ASKED, ANSWERED],
        ),
        ("alpaca", {"instruction": "2+3?", "input": "", "output": "5"}, [ASKED, ANSWERED]),
        ("alpaca", {"instruction": "2+3?", "input": None, "output": "5"}, [ASKED, ANSWERED]),
        (
            "alpaca",
            {"instruction": "Add.", "input": "2, 3", "output": "5"},
            [{"role": "user", "content": "Add.\n\n2, 3"}, ANSWERED],
        ),
    ],
)
def test_layouts(name: str, row: dict[str, Any], expected: Chat) -> None:
    layout = recognise(list(row))
    assert layout.name == name
    assert to_chats([row], layout) == [expected]


def test_named_columns() -> None:
    row = {"question": "2+3?", "answer": "5", "id": 7}
    assert to_chat(row, question_answer("question", "answer"), 0) == [ASKED, ANSWERED]
    assert to_chat(row, prompt_only("question"), 0) == [ASKED]


def test_extra_fields_of_a_message_are_left_out() -> None:
    row = {"messages": [{**ASKED, "id": 1}, {**ANSWERED, "weight": 0.5}]}
    assert to_chat(row, recognise(["messages"]), 0) == [ASKED, ANSWERED]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [ASKED]}, r"must end in an answer after a prompt, but are \['user'\]"),
        ({"messages": [ANSWERED]}, r"but are \['assistant'\]"),
        ({"messages": [ASKED, {"role": "bot", "content": "5"}]}, "has a role"),
        ({"messages": [ASKED, {"role": "assistant", "content": None}]}, "a text, content"),
        ({"messages": "2+3?"}, "list of messages, but is the text"),
        ({"messages": []}, "list of messages, but is"),
        ({"messages": None}, "messages is missing"),
        ({"prompt": "2+3?", "completion": None}, "completion is missing"),
        ({"prompt": "2+3?", "completion": 5}, "completion must be a text or a list of messages, but is 5"),
        ({"prompt": "2+3?", "completion": "  "}, "the answer is empty"),
        ({"instruction": 1, "input": "", "output": "5"}, "must be texts"),
    ],
)
def test_a_broken_row_is_named(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        to_chat(row, recognise(list(row)), 41, name="train.jsonl")
    assert "row 41 of train.jsonl" in str(caught.value)


def test_a_prompt_that_ends_in_an_answer_is_refused() -> None:
    with pytest.raises(InputError, match="ends in an answer already"):
        to_chat({"prompt": [ASKED, ANSWERED]}, prompt_only("prompt"), 0)


def test_columns_that_show_no_layout_or_two_are_named() -> None:
    with pytest.raises(InputError, match=r"\['text', 'label'\] of x show no layout.*messages: messages"):
        recognise(["text", "label"], name="x")
    with pytest.raises(InputError, match=r"more than one layout.*prompt/completion: prompt, completion"):
        recognise(["messages", "prompt", "completion"])
