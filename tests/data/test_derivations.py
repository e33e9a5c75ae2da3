"""Derivations with planted errors: an independent check of every line and label."""

from collections import Counter

import pytest

from lit_posttrain.data.formats import StepwiseRow
from lit_posttrain.data.sources import Derivations
from lit_posttrain.errors import InputError

SOURCE = Derivations(operands=6, train_size=400, held_out_size=400)


def wrong_line(row: StepwiseRow, modulus: int = 10) -> tuple[int | None, str]:
    """The first line that does not follow, and why; read from the texts alone."""
    (question,) = row.prompt
    problem = question["content"].removesuffix("=")
    value = problem[0]
    for number, line in enumerate(row.steps):
        left, sign, right, result = line[0], line[1], line[2], line[4]
        assert (line[3], len(line)) == ("=", 5)
        if left != value:
            return number, "value"
        if (sign, right) != (problem[2 * number + 1], problem[2 * number + 2]):
            return number, "operand"
        if eval(line[:3]) % modulus != int(result):
            return number, "result"
        value = result
    return None, ""


def test_labels_tell_where_the_first_error_is():
    kinds, places = Counter(), Counter()
    for row in SOURCE.rows("train"):
        wrong, kind = wrong_line(row)
        assert row.labels == [float(wrong is None or i < wrong) for i in range(5)]
        kinds[kind] += 1
        places[wrong] += 1
    assert kinds[""] / 400 == pytest.approx(0.4, abs=0.1)
    assert set(kinds) == {"", "value", "operand", "result"}
    assert min(kinds.values()) > 50
    assert set(places) == {None, 0, 1, 2, 3, 4}


def test_lines_after_an_error_follow_from_it():
    for row in SOURCE.rows("validation")[:100]:
        wrong, _ = wrong_line(row)
        for number in range(1, 5):
            if number != wrong:
                left, right = row.steps[number][0], row.steps[number][2]
                assert left == row.steps[number - 1][4]
                assert right == row.prompt[0]["content"][2 * number + 2]


def test_another_modulus():
    for row in Derivations(modulus=4, train_size=50).rows("train"):
        wrong, _ = wrong_line(row, 4)
        assert row.labels == [float(wrong is None or i < wrong) for i in range(5)]
        assert set("".join(row.steps)) <= set("0123+-*=")


def test_a_conversation_is_right_and_ends_in_the_reference():
    for problem, chat, _ in zip(SOURCE.problems("test"), SOURCE.chats("test"), range(50), strict=False):
        steps = chat[1]["content"].split("\n")
        assert wrong_line(StepwiseRow([dict(chat[0])], steps, [])) == (None, "")
        assert steps[-1][-1] == problem.reference


def test_splits_share_no_problem_and_rows_repeat():
    prompts = {
        split: {row.prompt[0]["content"] for row in SOURCE.rows(split)}
        for split in ("train", "validation", "test")
    }
    assert not prompts["train"] & prompts["validation"]
    assert not prompts["train"] & prompts["test"]
    assert not prompts["validation"] & prompts["test"]
    assert SOURCE.rows("train")[7] == Derivations(operands=6, train_size=10).rows("train")[7]
    assert SOURCE.rows("train")[7] != Derivations(operands=6, train_size=10, seed=1).rows("train")[7]


@pytest.mark.parametrize(("share", "wrong"), [(0.0, 0), (1.0, 50)])
def test_share_of_wrong_rows(share, wrong):
    rows = Derivations(wrong_share=share, train_size=50).rows("train")
    assert sum(0.0 in row.labels for row in rows) == wrong


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"operands": 2}, "at least 3 operands"),
        ({"operations": "+/"}, "characters out of"),
        ({"modulus": 11}, "from 2 to 10"),
        ({"wrong_share": 1.5}, "share from 0 to 1"),
        ({"train_size": 0}, "at least 1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(InputError, match=message):
        Derivations(**settings)


def test_unknown_split():
    with pytest.raises(InputError, match="no split"):
        SOURCE.rows("dev")
