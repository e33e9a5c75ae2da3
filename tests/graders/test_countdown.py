from fractions import Fraction

import pytest

from lit_posttrain.batches import Verdict
from lit_posttrain.graders import Countdown
from lit_posttrain.graders.countdown import NotAnExpression, evaluate

TASK = {"numbers": [3, 5, 2, 2], "target": 24}


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("<answer>(3+5)*2*2-8</answer>", Verdict.INCORRECT),  # 8 is not given
        (
            "<think>hm</think> <answer> (5-2) * (3*2+2) </answer>",
            Verdict.INCORRECT,
        ),  # two 2s are given, three used
        ("(5 + 3 - 2) * 2 = 24", Verdict.INCORRECT),  # 12
        ("<answer>(5+2)*3+2</answer>", Verdict.INCORRECT),  # 23
        ("first\n(3 × 5 − 2 − 2)\n", Verdict.INCORRECT),  # noqa: RUF001  11
        ("<answer></answer>", Verdict.NO_ANSWER),
        ("", Verdict.NO_ANSWER),
        ("<answer>3 + 5 +</answer>", Verdict.MALFORMED),
        ("<answer>__import__('os').system('x')</answer>", Verdict.MALFORMED),
        ("<answer>9**9**9**9</answer>", Verdict.MALFORMED),
        ("<answer>" + "(" * 300 + "3" + ")" * 300 + "</answer>", Verdict.MALFORMED),
        ("<answer>" + "(" * 50 + "3" + ")" * 50 + "</answer>", Verdict.MALFORMED),
        ("<answer>-3+5</answer>", Verdict.MALFORMED),
        ("<answer>3/(2-2)+5</answer>", Verdict.INCORRECT),
    ],
)
def test_wrong_expressions(grade, text, verdict):
    found = grade(Countdown(), text, TASK)
    assert (found.reward, found.correct, found.verdict) == (0.0, False, verdict)


@pytest.mark.parametrize("text", ["<answer>(2+2)*(5-3)*3</answer>", "(5+3)*(2+2)-8\n(5 - 2/2) * 2 * 3 = 24"])
def test_each_number_is_used_once(grade, text):
    assert grade(Countdown(), text, TASK).correct is False


def test_right_expressions(grade):
    assert grade(
        Countdown(), "so\n<answer>(5-2+3)*(2+2)</answer>", {"numbers": [5, 2, 3, 2, 2], "target": 24}
    ).correct
    assert (
        grade(Countdown(), "8/(3-8/3) = 24", {"numbers": [8, 3, 8, 3], "target": 24}).answer_key
        == "8/(3-8/3)"
    )
    assert grade(Countdown(), "3*8", {"numbers": [8, 3], "target": 24}).verdict is Verdict.CORRECT


def test_a_wrong_statement_after_the_expression_is_malformed(grade):
    assert grade(Countdown(), "3*8 = 25", {"numbers": [8, 3], "target": 24}).verdict is Verdict.MALFORMED


def test_the_format_reward_is_for_well_formed_expressions(grade):
    grader = Countdown(format_reward=0.1)
    assert grade(grader, "<answer>3+5</answer>", TASK).reward == 0.1
    assert grade(grader, "<answer>3+five</answer>", TASK).reward == 0.0


@pytest.mark.parametrize(
    "reference", [None, "24", {"numbers": [], "target": 1}, {"numbers": [1]}, {"numbers": ["1"]}]
)
def test_a_bad_reference_leaves_the_completion_ungraded(grade, reference):
    assert grade(Countdown(), "1", reference).reward is None


def test_evaluate_is_exact_and_follows_precedence():
    assert evaluate("2+3*4-6/4") == (Fraction(25, 2), [2, 3, 4, 6, 4])
    assert evaluate("8-3-2")[0] == 3
    assert evaluate("8/4/2")[0] == 1
    assert evaluate("1/(2-2)")[0] is None
    with pytest.raises(NotAnExpression, match="256"):
        evaluate("1+" * 200 + "1")
    with pytest.raises(NotAnExpression, match="not closed"):
        evaluate("(1+2")
