import time

import pytest
import reward_functions
from jsonargparse import ArgumentParser

from lit_posttrain.batches import Verdict
from lit_posttrain.contracts import Grader
from lit_posttrain.errors import InputError
from lit_posttrain.graders import PythonFunction, grade_all


@pytest.fixture
def function(request):
    grader = PythonFunction(request.param, deadline_s=0.5)
    yield grader
    grader.close()


@pytest.mark.parametrize("function", [reward_functions.equals], indirect=True)
def test_a_bool_says_what_is_correct(grade, function):
    right, wrong = grade(function, "\ud800 ünï\n", "\ud800 ünï\n"), grade(function, "a", "b")
    assert (right.reward, right.correct, right.verdict) == (1.0, True, Verdict.CORRECT)
    assert (wrong.reward, wrong.correct, wrong.verdict) == (0.0, False, Verdict.INCORRECT)


def test_a_float_is_correct_from_a_threshold_only(grade):
    plain, strict = (
        PythonFunction(reward_functions.length),
        PythonFunction(reward_functions.length, correct_at=3),
    )
    assert (grade(plain, "ab").reward, grade(plain, "ab").correct) == (2.0, None)
    assert (grade(strict, "ab").correct, grade(strict, "abc").correct) == (False, True)
    plain.close()
    strict.close()


@pytest.mark.parametrize("function", [reward_functions.in_full], indirect=True)
def test_a_dict_gives_the_whole_grade(grade, function):
    found = grade(function, "x")
    assert (found.reward, found.correct, found.answer_key, found.note) == (0.5, True, "x", "fine")
    assert found.parts == {"style": 0.25}


@pytest.mark.parametrize("function", [reward_functions.misbehaves], indirect=True)
def test_failures_leave_the_one_completion_ungraded(item, function, tmp_path):
    faults = ["raise", "exit", "die", "hang", "none", "nan", "text", "typo"]
    texts = [text for fault in faults for text in (fault, "fine")]
    start = time.perf_counter()
    grades = grade_all(function, [item(text, str(tmp_path / "x")) for text in texts], deadline_s=30)
    assert time.perf_counter() - start < 10
    assert [grade.reward for grade in grades] == [None, 1.0] * len(faults)
    verdicts = {text: grade.verdict for text, grade in zip(texts, grades, strict=True)}
    assert verdicts["hang"] is Verdict.GRADER_TIMEOUT
    assert all(verdicts[fault] is Verdict.GRADER_ERROR for fault in faults if fault != "hang")
    notes = {text: grade.note for text, grade in zip(texts, grades, strict=True)}
    assert notes["raise"].startswith("KeyError")
    assert notes["exit"].startswith("SystemExit")
    assert "exit code 7" in notes["die"]
    assert "reword" in notes["typo"]


@pytest.mark.parametrize("function", [reward_functions.misbehaves], indirect=True)
def test_a_kill_from_outside_costs_nothing(grade, function, tmp_path):
    assert grade(function, "die once", str(tmp_path / "marker")).reward == 1.0


def test_functions_without_an_importable_name_are_refused():
    def inner(**_: object) -> float:
        return 1.0

    for function in (inner, lambda **_: 1.0):
        with pytest.raises(InputError, match="importable module"):
            PythonFunction(function)


@pytest.mark.parametrize("name", ["lit_posttrain.graders.PythonFunction", "PythonFunction"])
def test_the_command_line_takes_a_function_by_dotted_path(grade, name):
    parser = ArgumentParser()
    parser.add_argument("--grader", type=Grader)
    options = ["--grader", name, "--grader.function", "reward_functions.equals", "--grader.workers", "2"]
    grader = parser.instantiate(parser.parse_args(options)).grader
    assert isinstance(grader, PythonFunction)
    assert grader.function is reward_functions.equals
    assert grade(grader, "a", "a").correct is True
    grader.close()
