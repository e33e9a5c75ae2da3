import pytest

from lit_posttrain.batches import Verdict
from lit_posttrain.errors import InputError
from lit_posttrain.graders import AnswerFormat, EndsWith, LengthWindow, MustContain, TagFormat

GOOD = "<think>a\nb</think>\n<answer>4</answer>"


def test_answer_format_needs_a_full_match(grade):
    grader = AnswerFormat(r"[a-z]+=\d+", max_characters=10)
    assert grade(grader, " x=42\n").correct is True
    assert grade(grader, "so x=42").verdict is Verdict.MALFORMED
    assert "longer than 10" in grade(grader, "x=4242424242").note
    assert grade(grader, "").verdict is Verdict.NO_ANSWER
    with pytest.raises(InputError, match="regular expression"):
        AnswerFormat("(")


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        (GOOD, True),
        ("<answer>4</answer><think>a</think>", False),
        (GOOD + "<answer>5</answer>", False),
        ("hm " + GOOD, False),
        (GOOD + " so", False),
        ("<think>a</think> then <answer>4</answer>", False),
        ("<think>a<answer>4</answer></think>", False),
        ("<think></think><answer>4</answer>", False),
        ("<think>a</think><answer>4", False),
    ],
)
def test_tags_stand_once_and_in_order(grade, text, is_right):
    assert grade(TagFormat(), text).correct is is_right


def test_the_first_tag_may_be_in_the_prompt(grade):
    assert grade(TagFormat(first_is_open=True), "a</think><answer>4</answer>").correct is True
    assert grade(TagFormat(first_is_open=True), GOOD).correct is False


def test_must_contain(grade):
    assert grade(MustContain(("happy",)), "So HAPPY!").correct is True
    assert grade(MustContain(("happy",), ignore_case=False), "So HAPPY!").correct is False
    assert grade(MustContain(), "The category.", "cat").correct is False
    assert grade(MustContain(whole_word=False), "The category.", "cat").correct is True
    found = grade(MustContain(reward="share"), "a dog and a fox", ["dog", "fox", "cat", "cow"])
    assert (found.reward, found.correct, found.verdict) == (0.5, False, Verdict.PARTIAL)
    assert "cat, cow" in found.note
    assert grade(MustContain(), "a dog", ["dog", "fox"]).reward == 0.0
    assert grade(MustContain(), "a dog", None).reward is None


def test_ends_with(grade):
    assert grade(EndsWith(), "The end. \n").correct is True
    assert grade(EndsWith(), "The end").correct is False
    assert grade(EndsWith((".", "!")), "The end!").correct is True
    assert grade(EndsWith(), " ").verdict is Verdict.NO_ANSWER


def test_length_window(grade):
    assert grade(LengthWindow(2, 3), "one two three").correct is True
    assert grade(LengthWindow(2, 3), "one").correct is False
    assert grade(LengthWindow(1, 3, "characters"), " four ").correct is False
    assert grade(LengthWindow(5, None, "tokens"), "x", tokens=5).correct is True
    assert grade(LengthWindow(6, None, "tokens"), "x", tokens=5).note == "5 tokens"


@pytest.mark.parametrize(
    "make",
    [
        lambda: MustContain((" ",)),
        lambda: MustContain(reward="half"),
        lambda: EndsWith(()),
        lambda: LengthWindow(3, 2),
        lambda: LengthWindow(unit="lines"),
        lambda: TagFormat(("a", "a")),
    ],
)
def test_configuration_errors(make):
    with pytest.raises(InputError):
        make()
