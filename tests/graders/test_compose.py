import pytest
import reward_functions
from jsonargparse import ArgumentParser

from lit_posttrain.batches import Verdict
from lit_posttrain.contracts import Grader
from lit_posttrain.errors import InputError
from lit_posttrain.graders import EndsWith, ExactMatch, MustContain, NumericMatch, PythonFunction, WeightedSum


def test_parts_are_unweighted_and_the_reward_is_their_weighted_sum(grade):
    grader = WeightedSum([NumericMatch(), EndsWith()], [1.0, 0.25])
    found = grade(grader, "It is 7", 7)
    assert found.parts == {"numeric_match": 1.0, "ends_with": 0.0}
    assert (found.reward, found.correct, found.answer_key) == (1.0, True, "7")
    assert grade(grader, "It is 8.", 7).reward == 0.25
    assert (
        grade(WeightedSum([NumericMatch(), EndsWith()], [2.0, -0.5], correct_from=1), "7.", 7).reward == 1.5
    )


def test_correctness_comes_from_the_named_part(grade):
    grader = WeightedSum([NumericMatch(), EndsWith()], [1.0, 1.0], correct_from=1)
    assert grade(grader, "8.", 7).correct is True


def test_one_ungraded_part_leaves_the_whole_ungraded_and_others_untouched(item):
    grader = WeightedSum([NumericMatch(), EndsWith()], [1.0, 0.25])
    found = grader.grade([item("7.", 7), item("7.", "seven"), item("8.", 8)])
    assert [one.reward for one in found] == [1.25, None, 1.25]
    assert found[1].verdict is Verdict.GOLD_UNPARSEABLE
    assert found[1].parts == {"ends_with": 1.0}


def test_lowest_is_computed():
    low = PythonFunction(reward_functions.length, lowest=-1.0)
    assert WeightedSum([low, EndsWith()], [0.5, 3.0]).lowest == -0.5


def test_names():
    assert WeightedSum([MustContain(("a",)), MustContain(("b",))], [1, 1]).names == (
        "must_contain",
        "must_contain_2",
    )
    assert WeightedSum([ExactMatch()], [1], names=("right",)).names == ("right",)


@pytest.mark.parametrize(
    "make",
    [
        lambda: WeightedSum([], []),
        lambda: WeightedSum([EndsWith()], [1.0, 2.0]),
        lambda: WeightedSum([EndsWith()], [1.0], correct_from=1),
        lambda: WeightedSum([EndsWith()], [1.0], names=("Ends With",)),
        lambda: WeightedSum([EndsWith(), EndsWith()], [1.0, 1.0], names=("a", "a")),
    ],
)
def test_configuration_errors(make):
    with pytest.raises(InputError):
        make()


def test_a_sum_is_configured_by_class_names(grade):
    parser = ArgumentParser()
    parser.add_argument("--grader", type=Grader)
    parts = [{"class_path": "NumericMatch", "init_args": {"markers": ["####"]}}, {"class_path": "EndsWith"}]
    init = {"graders": parts, "weights": [1, 0.5], "names": ["number", "full_stop"]}
    config = {"grader": {"class_path": "lit_posttrain.graders.WeightedSum", "init_args": init}}
    grader = parser.instantiate(parser.parse_object(config)).grader
    assert grade(grader, "#### 7.", 7).parts == {"number": 1.0, "full_stop": 1.0}
    assert grade(grader, "#### 7.", 7).reward == 1.5
