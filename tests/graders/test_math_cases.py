"""The judged cases of math_cases, graded."""

import pytest
from math_cases.cases import HANGS, INJECTIONS, noise, read

from lit_posttrain.batches import UNGRADED_VERDICTS
from lit_posttrain.graders import MathAnswer

SUITE, ADVERSARIAL = list(read("suite.txt")), list(read("adversarial.txt"))
CATEGORIES = sorted({case.category for case in SUITE})


@pytest.fixture(scope="module")
def grader():
    made = MathAnswer(deadline_s=10.0)  # what is right must not depend on how busy the machine is
    yield made
    made.close()


@pytest.fixture
def judge(item, grader):
    """The cases that are not graded as they should be."""

    def run(cases):
        grades = grader.grade([item(case.text, case.gold) for case in cases])
        return [
            (case.gold, case.text, grade.verdict)
            for case, grade in zip(cases, grades, strict=True)
            if grade.correct is not case.is_right
        ]

    return run


@pytest.mark.parametrize("category", CATEGORIES)
def test_suite(judge, category):
    assert judge([case for case in SUITE if case.category == category]) == []


def test_adversarial_pairs(judge):
    assert judge(ADVERSARIAL) == []


def test_there_are_enough_cases_of_each_kind():
    assert len(SUITE) >= 280
    assert len(ADVERSARIAL) >= 90
    for category in {case.category for case in ADVERSARIAL}:
        assert sum(case.category == category for case in ADVERSARIAL) >= 5, category
    assert (len(HANGS), len(set(HANGS))) == (24, 24)


def test_noise_raises_nothing_executes_nothing_and_is_never_ungraded(item, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    injections = [rf"\boxed{{{template.format(marker=tmp_path / 'marker')}}}" for template in INJECTIONS]
    grader = MathAnswer(workers=1)
    grades = grader.grade([item(text, r"\{1,\pi\}") for text in [*injections, *noise(150, seed=3)]])
    assert not {grade.verdict for grade in grades} & UNGRADED_VERDICTS
    assert not any(grade.correct for grade in grades)
    assert grader.judge.refused_acts() == []
    assert list(tmp_path.iterdir()) == []
    grader.close()
