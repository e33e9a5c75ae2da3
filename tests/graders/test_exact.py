import pytest

from lit_posttrain.batches import Verdict
from lit_posttrain.errors import InputError
from lit_posttrain.graders import ExactMatch, NumericMatch


def test_exact_match_ignores_outer_blanks_and_optionally_case(grade):
    assert grade(ExactMatch(), " Paris\n", "Paris").reward == 1.0
    assert grade(ExactMatch(), "paris", "Paris").verdict is Verdict.INCORRECT
    assert grade(ExactMatch(ignore_case=True), "PARIS", "Paris").answer_key == "paris"
    assert grade(ExactMatch(), "7", 7).correct is True
    assert grade(ExactMatch(), " ", "Paris").verdict is Verdict.NO_ANSWER


@pytest.mark.parametrize("reference", [None, True, ["a"], {"a": 1}, ""])
@pytest.mark.parametrize("grader", [ExactMatch(), NumericMatch()])
def test_a_bad_reference_leaves_the_completion_ungraded(grade, grader, reference):
    found = grade(grader, "7", reference)
    assert (found.reward, found.correct, found.verdict) == (None, None, Verdict.GOLD_UNPARSEABLE)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("It is 7.", "7"),
        ("16 - 3 = 13", "13"),
        ("10-5", "5"),
        ("from -5 to -7", "-7"),
        ("$1,234.50 in all", "2469/2"),
        ("-$3", "-3"),
        ("about 25%", "25"),
        ("half is 1/2", "1/2"),
        ("a 0.125.", "1/8"),
        ("x2 is 3 and y4", "3"),
        ("1,000,000", "1000000"),
        (".5", "1/2"),
        ("1.5e3", "1500"),
    ],
)
def test_the_last_number_is_read_exactly(grade, text, key):
    assert grade(NumericMatch(), text, 0).answer_key == key


def test_markers_go_before_the_last_number(grade):
    grader = NumericMatch(markers=("####", "answer is"))
    assert grade(grader, "The answer is: $18. Checked 3 times.", "18").correct is True
    assert grade(grader, "the answer is 1 #### 18 of 20", 18).correct is True
    assert grade(grader, "#### nothing, so 4", 4).correct is True


def test_the_whole_text_must_be_the_number(grade):
    grader = NumericMatch(take="whole")
    assert grade(grader, " 1 1/2 ", 1.5).correct is True
    assert grade(grader, "It is 7", 7).verdict is Verdict.MALFORMED
    assert grade(grader, "", 7).verdict is Verdict.NO_ANSWER


def test_values_are_exact_and_the_tolerance_is_for_decimals_only(grade):
    assert grade(NumericMatch(), "0.1", "1/10").correct is True
    assert grade(NumericMatch(), "10000000000000000.1", 10**16).correct is False
    assert grade(NumericMatch(tolerance=0.01), "3.15", 3.14).correct is True
    assert grade(NumericMatch(tolerance=0.01), "315", 314).correct is False
    assert grade(NumericMatch(), "1/0", 1).verdict is Verdict.MALFORMED
    assert grade(NumericMatch(), "none", 1).verdict is Verdict.NO_ANSWER


def test_a_huge_number_is_refused_at_once(grade):
    assert grade(NumericMatch(), "9" * 1_000_000, 1).verdict is Verdict.MALFORMED
    assert grade(NumericMatch(take="whole"), "9" * 1_000_000, 1).verdict is Verdict.MALFORMED
    assert grade(NumericMatch(), "7e999999999", 7).answer_key == "7"  # no such exponent: the number is 7


def test_configuration_errors_say_what_to_change():
    with pytest.raises(InputError, match="choose 'last' or 'whole'"):
        NumericMatch(take="first")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="blank marker"):
        NumericMatch(markers=("",))
