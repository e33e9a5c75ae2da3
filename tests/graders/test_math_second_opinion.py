import pytest

from lit_posttrain.errors import InputError
from lit_posttrain.graders import MathAnswer
from lit_posttrain.graders.math_answer import DISAGREEMENT


def test_a_second_opinion_is_a_part_of_the_grade_and_leaves_the_reward(grade):
    grader = MathAnswer(deadline_s=10.0, second_opinion=1.0)
    agreed = grade(grader, r"\boxed{\frac{4}{2}}", "2")
    assert (agreed.reward, agreed.parts) == (1.0, {DISAGREEMENT: 0.0})
    differing = grade(grader, r"\boxed{3.1415926535}", r"\pi")  # math-verify takes six decimals for enough
    assert (differing.reward, differing.parts) == (0.0, {DISAGREEMENT: 1.0})
    assert grade(grader, r"\boxed{2}", "").parts == {}  # nothing to compare with
    grader.close()


def test_the_share_is_chosen_by_content(item):
    items = [item(rf"\boxed{{{i}}}", "7") for i in range(200)]
    sampled, again = [], []
    for found in (sampled, again):
        grader = MathAnswer(deadline_s=10.0, second_opinion=0.1)
        found += [bool(grade.parts) for grade in grader.grade(items)]
        grader.close()
    assert sampled == again
    assert 8 <= sum(sampled) <= 34  # 20 expected; five standard deviations are 21


def test_by_default_nobody_else_is_asked(grade):
    grader = MathAnswer()
    assert grade(grader, r"\boxed{2}", "2").parts == {}
    assert not grader.judge.pool._workers
    with pytest.raises(InputError, match=r"second_opinion=1\.5"):
        MathAnswer(second_opinion=1.5)
