"""Rows of every layout say what they should; broken ones say why they do not."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from lit_posttrain.data.formats import (
    BrokenRow,
    Conversation,
    Layout,
    PreferenceRow,
    PromptRow,
    RankedRow,
    Row,
    StepwiseRow,
    TextRow,
    UnpairedRow,
    named,
    recognise,
)
from lit_posttrain.data.formats.preference import split_texts
from lit_posttrain.data.formats.recognise import LayoutName
from lit_posttrain.data.formats.supervised import learned
from lit_posttrain.errors import InputError


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def says(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


ASKED, ANSWERED, WRONG = user("2+3?"), says("5"), says("6")
SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 3}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
RESULT = {"role": "tool", "name": "add", "content": "5"}
CHAT = Conversation([ASKED, ANSWERED])


def layout_of(row: dict[str, Any]) -> Layout:
    return recognise(list(row), [row])


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        ("text", {"text": "The sky is blue."}, TextRow("The sky is blue.")),
        ("text", {"text": "a", "label": 3}, TextRow("a")),
        ("messages", {"messages": [SYSTEM, ASKED, ANSWERED]}, Conversation([SYSTEM, ASKED, ANSWERED])),
        ("messages", {"conversations": [ASKED, ANSWERED]}, CHAT),
        ("prompt", {"prompt": "2+3?"}, PromptRow([ASKED])),
        ("prompt", {"prompt": [SYSTEM, ASKED]}, PromptRow([SYSTEM, ASKED])),
        ("prompt_completion", {"prompt": "2+3?", "completion": "5"}, CHAT),
        ("prompt_completion", {"prompt": [ASKED], "completion": [ANSWERED], "label": "math"}, CHAT),
        ("prompt_completion", {"prompt": "2+3?", "completion": "5", "label": 4}, CHAT),
        (
            "preference",
            {"prompt": "2+3?", "chosen": "5", "rejected": "6", "margin": 2, "weight": 0.5},
            PreferenceRow([ASKED], [ANSWERED], [WRONG], 2.0, weight=0.5),
        ),
        (
            "preference",
            {"prompt": [SYSTEM, ASKED], "chosen": [ANSWERED], "rejected": [WRONG]},
            PreferenceRow([SYSTEM, ASKED], [ANSWERED], [WRONG]),
        ),
        (
            "preference",  # the prompt once more within the answers
            {"prompt": "2+3?", "chosen": [SYSTEM, ASKED, ANSWERED], "rejected": [SYSTEM, ASKED, WRONG]},
            PreferenceRow([SYSTEM, ASKED], [ANSWERED], [WRONG]),
        ),
        (
            "preference_implicit",
            {"chosen": "The sky is blue.", "rejected": "The sky is black.", "score_chosen": 5, "score_rejected": 3.5},
            PreferenceRow([user("The sky is")], [says(" blue.")], [says(" black.")], 1.5),
        ),
        (
            "preference_implicit",
            {"chosen": [ASKED, ANSWERED], "rejected": [ASKED, WRONG], "tools": [TOOL]},
            PreferenceRow([ASKED], [ANSWERED], [WRONG], tools=[TOOL]),
        ),
        ("unpaired", {"prompt": "2+3?", "completion": "6", "label": False}, UnpairedRow([ASKED], [WRONG], False)),
        ("unpaired", {"prompt": [ASKED], "completion": [ANSWERED], "label": 1}, UnpairedRow([ASKED], [ANSWERED], True)),
        (
            "ranked",
            {"prompt": "2+3?", "completions": ["5", [WRONG]], "scores": [1, 0.5]},
            RankedRow([ASKED], [[ANSWERED], [WRONG]], [1.0, 0.5]),
        ),
        (
            "stepwise",
            {"prompt": "2+3?", "completions": ["Add.", "6"], "labels": [True, False]},
            StepwiseRow([ASKED], ["Add.", "6"], [1.0, 0.0]),
        ),
        (
            "stepwise",
            {"prompt": "2+3?", "completions": ["Add.", "6", "So 6."], "labels": [0.75, 0, None]},
            StepwiseRow([ASKED], ["Add.", "6", "So 6."], [0.75, 0.0, None]),
        ),
        (
            "sharegpt",
            {
                "conversations": [
                    {"from": "system", "value": "Be brief."},
                    {"from": "human", "value": "2+3?"},
                    {"from": "gpt", "value": "5"},
                ]
            },
            Conversation([SYSTEM, ASKED, ANSWERED]),
        ),
        (
            "sharegpt",
            {
                "system": "Be brief.",
                "tools": '[{"name": "add"}]',
                "conversations": [
                    {"from": "human", "value": "2+3?"},
                    {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2, "b": 3}}'},
                    {"from": "observation", "value": "5"},
                    {"from": "gpt", "value": "5", "weight": 0.5},
                ],
            },
            Conversation(
                [SYSTEM, ASKED, says("", tool_calls=[CALL]), {"role": "tool", "content": "5"}, says("5", weight=0.5)],
                [{"name": "add"}],
            ),
        ),
        ("alpaca", {"instruction": "2+3?", "input": "", "output": "5"}, CHAT),
        ("alpaca", {"instruction": "2+3?", "input": None, "output": "5"}, CHAT),
        (
            "alpaca",
            {"instruction": "Add.", "input": "2, 3", "output": "5", "system": "Be brief."},
            Conversation([SYSTEM, user("Add.\n\n2, 3"), ANSWERED]),
        ),
    ],
)  # fmt: skip
def test_layouts(name: str, row: dict[str, Any], expected: Row) -> None:
    layout = layout_of(row)
    assert layout.name == name
    assert layout.kind is type(expected)
    assert layout.read(row) == expected


def test_tools_and_their_calls_pass_through() -> None:
    chat = [ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL]}, RESULT, says("5", id=7)]
    row = layout_of({"messages": chat}).read({"messages": chat, "tools": [TOOL]})
    assert row == Conversation([ASKED, says("", tool_calls=[CALL]), RESULT, ANSWERED], [TOOL])


def test_weights_of_messages() -> None:
    chat = [ASKED, says("5", weight=0), user("Sure?"), says("Yes.")]
    row = layout_of({"messages": chat}).read({"messages": chat})
    assert isinstance(row, Conversation)
    assert row.messages[1]["weight"] == 0
    assert row.message_weights == [1.0, 0.0, 1.0, 1.0]
    assert CHAT.message_weights is None
    assert learned(row) is row
    assert learned(CHAT) == [ASKED, ANSWERED]
    assert learned(Conversation([ASKED, ANSWERED], [TOOL])).tools == [TOOL]  # type: ignore[union-attr]
    assert learned(PreferenceRow([ASKED], [ANSWERED], [WRONG])) == [ASKED, ANSWERED]


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("The sky is blue.", "The sky is green.", ("The sky is", " blue.", " green.")),
        ("The sky is blue", "The sky is black", ("The sky is", " blue", " black")),
        ("Sky?\nBlue.", "Sky?\nBlack.", ("Sky?\n", "Blue.", "Black.")),
        ("Sky?\n\n  a", "Sky?\n\n  b", ("Sky?\n\n", "  a", "  b")),
        ("A: It is 5", "A: It isn't 5", ("A: It", " is 5", " isn't 5")),
        ("The sky is", "The sky is blue", ("The sky", " is", " is blue")),
        ("Q: x \nA", "Q: x \nB", ("Q: x \n", "A", "B")),
    ],
)
def test_the_prompt_of_two_texts_ends_where_a_word_does(
    chosen: str, rejected: str, expected: tuple[str, str, str]
) -> None:
    prompt, left, right = split_texts(chosen, rejected)
    assert (prompt, left, right) == expected
    assert (prompt + left, prompt + right) == (chosen, rejected)


def prm800k(*steps: Any) -> dict[str, Any]:
    return {"question": {"problem": "2+3?", "ground_truth_answer": "5"}, "label": {"steps": list(steps)}}


def step(chosen: int | None, *ratings: int | None, human: str | None = None) -> dict[str, Any]:
    written = [{"text": f"step {i}", "rating": r, "flagged": False} for i, r in enumerate(ratings)]
    by_human = {"text": human, "rating": None} if human else None
    return {"completions": written or None, "human_completion": by_human, "chosen_completion": chosen}


SHEPHERD = "2+3? Step 1: Add. ки\nStep 2: 6 ки"


def dialogue(chosen: str, rejected: str) -> dict[str, Any]:
    asked = "\n\nHuman: 2+3?\n\nAssistant:"
    return {"chosen": f"{asked} {chosen}", "rejected": f"{asked} {rejected}"}


def tree(prefix: str, value: float) -> dict[str, Any]:
    return {"solution_prefix": prefix, "mc_value": value}


def test_a_prompt_of_dialogues_is_the_turns_that_both_share() -> None:
    """The words that both answers begin with belong to the answers."""
    row = named("hh_rlhf", ["chosen", "rejected"]).read(dialogue("It is 5", "It is 6"))
    assert row == PreferenceRow([ASKED], [says("It is 5")], [says("It is 6")])


def test_the_beginnings_of_a_tree_are_graded_completions() -> None:
    first = {
        "question": "2+3?",
        "reasoning_steps": [tree("2+3?", 0.75), tree("2+3?\n\nAdd.", 0.5), tree("2+3? 6", 0)],
    }
    row = named("math_aps", list(first)).read(first)
    assert row == RankedRow([ASKED], [[says("Add.")], [says("6")]], [0.5, 0.0])


def test_a_whole_solution_keeps_its_labels() -> None:
    cells = {"prompt": "2+3?", "completion": "Add.\n6", "labels": [True, None]}
    assert named("stepwise_whole", list(cells)).read(cells) == StepwiseRow([ASKED], ["Add.\n6"], [1.0, None])
    assert layout_of(cells).name == "prompt_completion"  # it has to be named


@pytest.mark.parametrize(
    ("name", "row", "steps", "labels"),
    [
        ("prm800k", prm800k(step(0, 1), step(2, -1, 0, 0)), ["step 0", "step 2"], [1.0, 1.0]),
        ("prm800k", prm800k(step(None, -1, human="Add.")), [], None),
        ("prm800k", prm800k(step(0, 1), step(None, -1, human="Add.")), ["step 0", "Add."], [1.0, None]),
        ("prm800k", prm800k(step(0, 1), step(None, -1, 1)), ["step 0", "step 0"], [1.0, 0.0]),
        ("prm800k", prm800k(step(0, 1), step(None)), ["step 0"], [1.0]),
        ("prm800k", {"problem": "2+3?", "steps": [{"text": "a", "rating": 1}, {"text": "b", "rating": -1}]},
         ["a", "b"], [1.0, 0.0]),
        ("math_shepherd", {"input": SHEPHERD, "label": "2+3? Step 1: Add. +\nStep 2: 6 -"},
         ["Step 1: Add.", "Step 2: 6"], [1.0, 0.0]),
        ("processbench", {"problem": "2+3?", "steps": ["a", "b", "c"], "label": 1}, ["a", "b", "c"], [1.0, 0.0, None]),
        ("processbench", {"problem": "2+3?", "steps": ["a", "b"], "label": -1}, ["a", "b"], [1.0, 1.0]),
        ("processbench", {"problem": "2+3?", "steps": ["a", "b"], "label": 0}, ["a", "b"], [0.0, None]),
    ],
)  # fmt: skip
def test_converters_of_steps(
    name: str, row: dict[str, Any], steps: list[str], labels: list[float | None] | None
) -> None:
    layout = named(name, list(row))
    if labels is None:
        with pytest.raises(BrokenRow, match="no step has a label"):
            layout.read(row)
    else:
        assert layout.read(row) == StepwiseRow([ASKED], steps, labels)


@pytest.mark.parametrize("neutral", [1.0, 0.5, 0.0, None])
def test_neutral_steps_map_by_a_setting(neutral: float | None) -> None:
    row = prm800k(step(0, 1), step(0, 0), step(0, -1))
    read = named("prm800k", list(row), neutral=neutral).read(row)
    assert isinstance(read, StepwiseRow)
    assert read.labels == [1.0, neutral, 0.0]


def messages(*said: Any) -> dict[str, Any]:
    return {"messages": list(said)}


def pair(chosen: Any, rejected: Any, **more: Any) -> dict[str, Any]:
    return {"chosen": chosen, "rejected": rejected, **more}


def steps(completions: Any, labels: Any, **more: Any) -> dict[str, Any]:
    return {"prompt": "2+3?", "completions": completions, "labels": labels, **more}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": 5}, "text must be a text, but is 5"),
        ({"text": " \n"}, "text is empty"),
        ({"text": None}, "text is missing"),
        ({"text": "a\x00b"}, "text holds a NUL character at position 1"),
        ({"text": "ab\ud800"}, "text holds the lone surrogate 0xd800 at position 2"),
        ({"text": "a" * 8_000_001}, "more than 8,000,000 characters"),
        (messages(ASKED), r"must end in an answer after a prompt, but are \['user'\]"),
        (messages(ANSWERED), r"but are \['assistant'\]"),
        (messages(ASKED, {"role": "bot", "content": "5"}), "has a role"),
        (messages(ASKED, says(None)), "a text, content"),  # type: ignore[arg-type]
        (messages(ASKED, says("")), "the answer is empty"),
        (messages(user(" "), ANSWERED), r"message 0 \(user\) is empty"),
        (messages(ASKED, ASKED, ANSWERED), "message 1 is of role user, but after user comes assistant"),
        (messages(ASKED, SYSTEM, ANSWERED), "message 1 is of role system"),
        (messages(RESULT, ANSWERED), "message 0 is of role tool, but after the beginning comes"),
        (messages(ASKED, ANSWERED, WRONG), "message 2 is of role assistant, but after assistant comes"),
        (messages(ASKED, says("5", weight=-1)), "must not be negative"),
        (messages(ASKED, says("5", weight="high")), "weight in messages must be a finite number"),
        (messages(ASKED, says("5", tool_calls="add")), "tool_calls in messages must be a list of objects"),
        ({"messages": [ASKED, ANSWERED], "tools": "add(a, b)"}, "tools is a text, but no JSON"),
        ({"messages": "2+3?"}, "list of messages, but is the text"),
        ({"messages": []}, "list of messages, but is"),
        ({"messages": None}, "messages is missing"),
        (messages(user("a\x00"), ANSWERED), "messages holds a NUL"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": 5}, "prompt must be a text or a list of messages, but is 5"),
        ({"prompt": [ASKED, ANSWERED]}, "ends in an answer already"),
        ({"prompt": [SYSTEM]}, "asks nothing"),
        ({"prompt": "2+3?", "completion": None}, "completion is missing"),
        ({"prompt": "2+3?", "completion": 5}, "completion must be a text or a list of messages, but is 5"),
        ({"prompt": "2+3?", "completion": "  "}, "the answer is empty"),
        ({"prompt": "2+3?", "completion": [ASKED]}, "completion must begin with the assistant"),
        ({"instruction": 1, "input": "", "output": "5"}, "instruction must be a text"),
        ({"instruction": "2+3?", "input": "", "output": ""}, "the answer is empty"),
        (pair("5", "5", prompt="2+3?"), "chosen and rejected are the same"),
        (pair("5", " ", prompt="2+3?"), "the answer is empty"),
        (pair("5", "6", prompt=None), "prompt is missing"),
        (pair("5", "6", prompt="2+3?", margin="much"), "margin must be a finite number"),
        (pair("5", "6", prompt="2+3?", score_chosen=1.0), "score_rejected is missing"),
        (pair("5", "6", prompt="2+3?", weight=0), "weight must be above 0"),
        (pair([ASKED, ANSWERED], [ASKED, WRONG], prompt="3+4?"), "prompt is not what the conversations"),
        (pair("Blue.", "Black."), "share no first word"),
        (pair("The sky.", "The sky."), "are the same"),
        (pair([ASKED, ANSWERED], [user("3+4?"), ANSWERED]), "share no first message"),
        (pair([ASKED, ANSWERED], [ASKED]), "answers nothing"),
        (pair([ASKED, ANSWERED, user("a"), says("b")], [ASKED, ANSWERED, user("c"), says("d")]),
         "the prompt ends in an answer already"),
        ({"prompt": "2+3?", "completion": "5", "label": None}, "label is missing"),
        (steps(["a", "b"], [True]), "there are 2 steps, but 1 labels"),
        (steps(["a", ""], [True, True]), "step 1 must be a filled text, but is ''"),
        (steps(["a"], ["good"]), "label 0 of labels must be a finite number, but is 'good'"),
        ({"prompt": "2+3?", "completions": ["5"], "scores": [1]}, "1 completions and 1 scores; two are needed"),
        ({"prompt": "2+3?", "completions": ["5", "6"], "scores": [1]}, "2 completions and 1 scores"),
        ({"prompt": "2+3?", "completions": ["5", "6"], "scores": [1, "x"]}, "score 1 must be a finite number"),
        ({"prompt": "2+3?", "completions": ["5", " "], "scores": [1, 2]}, "the answer is empty"),
        (steps(["a"], [-1]), r"in \[0, 1\], but is -1"),
        (steps([], []), "completions must be a filled list"),
        (steps("a", [True]), "completions must be a filled list, but is 'a'"),
        (steps(["a"], [None]), "no step has a label"),
        ({"conversations": [{"from": "human", "value": "2+3?"}, {"from": "robot", "value": "5"}]}, "has from"),
        ({"conversations": [{"from": "gpt", "value": "5"}]}, "must end in an answer after a prompt"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "add"}]}, "no JSON"),
    ],
)  # fmt: skip
def test_a_broken_row_says_why(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BrokenRow, match=reason):
        layout_of(row).read(row)


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("unpaired", {"prompt": "2+3?", "completion": "5", "label": "yes"}, "must be true or false, but is 'yes'"),
        ("prm800k", prm800k({"completions": [{"text": "a", "rating": 2}], "chosen_completion": 0}), "but is 2"),
        ("prm800k", prm800k(step(3, 1)), "chosen_completion is 3, but there are 1"),
        ("prm800k", {"question": {"text": "2+3?"}, "label": {}}, "question must hold problem"),
        ("prm800k", {"problem": "2+3?", "steps": ["a"]}, "a step must hold text"),
        ("math_shepherd", {"input": SHEPHERD, "label": "2+3? Step 1: Add. +\nStep 2: 7 -"}, "differs in step 1"),
        ("math_shepherd", {"input": SHEPHERD, "label": "2+3? Step 1: Add. ?\nStep 2: 6 -"}, "differs in step 0"),
        ("math_shepherd", {"input": SHEPHERD + " so", "label": "2+3? Step 1: Add. +\nStep 2: 6 - so"}, "must end in"),
        ("math_shepherd", {"input": "Add. ки", "label": "Add. +"}, "no problem before 'Step 1:'"),
        ("stepwise_whole", {"prompt": "2+3?", "completion": " ", "labels": [1]}, "completion is empty"),
        ("stepwise_whole", {"prompt": "2+3?", "completion": "5", "labels": [None]}, "no step has a label"),
        ("hh_rlhf", {"chosen": "2+3?", "rejected": "2+3?"}, "chosen must begin with 'Human:' behind a blank line"),
        ("hh_rlhf", dialogue("5", "5"), "chosen and rejected are the same"),
        ("hh_rlhf", dialogue("5", ""), "the answer is empty"),
        ("math_aps", {"question": "2+3?", "reasoning_steps": [tree("3+3? 6", 1)]}, "must go on from the question"),
        ("math_aps", {"question": "2+3?", "reasoning_steps": [tree("2+3? 6", 2)]}, r"a value in \[0, 1\]"),
        ("math_aps", {"question": "2+3?", "reasoning_steps": [tree("2+3?", 1)]}, "no beginning of a solution"),
        ("processbench", {"problem": "2+3?", "steps": ["a"], "label": 1}, "number of a step of 1, or -1, but is 1"),
        ("processbench", {"problem": "2+3?", "steps": ["a"], "label": "none"}, "label must be a finite number"),
    ],
)  # fmt: skip
def test_a_broken_row_of_a_named_layout_says_why(name: str, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BrokenRow, match=reason):
        named(name, list(row)).read(row)


def test_labels_of_truth_values_stay_labels_beside_broken_ones() -> None:
    rows = [{"prompt": "a", "completion": "b", "label": label} for label in (True, "yes")]
    assert recognise(list(rows[0]), rows).name == "unpaired"
    assert recognise(list(rows[0]), rows[1:]).name == "prompt_completion"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["textual", "label"], r"\['textual', 'label'\] of x show no layout.*messages: messages.*columns: \{text"),
        (["messages", "prompt", "completion"], "more than one layout .*: messages or prompt_completion"),
        (["text", "messages"], "set layout to the one that is meant: text or messages"),
        (["instruction", "input", "output", "text"], "text or alpaca"),
        (["question", "label"], "may be rows of prm800k: then set layout"),
        (["problem", "steps", "label"], "may be rows of prm800k or processbench"),
    ],
)  # fmt: skip
def test_columns_that_show_no_layout_or_two_are_named(columns: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        recognise(columns, name="x")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: named("poetry", ["text"]), "no layout 'poetry'; choose one of text, messages"),
        (lambda: named("text", ["body"], name="x"), r"x has no column text, .* it has body.*\(columns: \{text: COLUMN"),
        (lambda: named("text", ["body"], names={"title": "body"}), "reads no title; it reads text"),
    ],
)  # fmt: skip
def test_named_layouts_need_their_columns(call: Callable[[], Layout], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_columns_of_other_names() -> None:
    row = {"question": "2+3?", "better": "5", "worse": "6", "id": 7}
    names = {"prompt": "question", "chosen": "better", "rejected": "worse"}
    for layout in (recognise(list(row), [row], names=names), named("preference", list(row), names=names)):
        assert layout.read(row) == PreferenceRow([ASKED], [ANSWERED], [WRONG])
        with pytest.raises(BrokenRow, match="worse is missing"):
            layout.read({**row, "worse": None})


def test_the_rows_of_the_page_are_what_it_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    page = page.partition("\n|---|---|---|\n")[2].partition("\n\n")[0]
    shown = re.findall(r"^\| `(\w+)` \| (.*?) \| [^|]* \|$", page, re.MULTILINE)
    names = [name for name, _ in shown]
    assert names == list(get_args(LayoutName))
    for name, cell in shown:
        rows = [json.loads(code) for code in re.findall(r"`(\{.*?\})`", cell)]
        assert rows, name
        for row in rows:
            assert isinstance(named(name, list(row)).read(row), named(name, list(row)).kind)
            if name not in names[names.index("prm800k") :]:  # which have to be named
                assert recognise(list(row), [row]).name == name
