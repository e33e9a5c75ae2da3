"""Tiny programs: descriptions and programs say the same, tests tell every step, and no function is in two splits."""

from random import Random

import pytest

from lit_posttrain.data.sources import TinyPrograms
from lit_posttrain.data.sources.tiny_programs import Step, Task, is_needed_throughout, key_of
from lit_posttrain.errors import InputError

SPLITS = ("train", "validation", "test")
ALPHABET = set(" %()*+,-0123456789:;=adefilmnoprstuxy")  # of configs/*/tiny_programs.yaml


def task(text: str) -> Task:
    """Read back from its description, by another way than the code under test goes."""
    start, rest = text.split(" ", 1)
    return Task(start, tuple(Step(*step.split()) for step in rest.split(", ")))


def content(problem) -> str:
    return problem.messages[-1]["content"]


def described(problem) -> str:
    return content(problem).removesuffix(":").split("; ")[0]


@pytest.mark.parametrize(
    ("description", "program", "value"),
    [
        ("x plus y, times 3", "(x+y)*3", 9),
        ("x times y, plus 3", "x*y+3", -1),
        ("x minus y, minus 2", "x-y-2", 3),
        ("x max y, mod 3", "max(x,y)%3", 1),
        ("y mod 3, times x", "y%3*x", 8),
        ("x minus 9, mod 4, min y", "min((x-9)%4,y)", -1),
        ("x times 2, min 5, plus x", "min(x*2,5)+x", 9),
    ],
)
def test_description_program_and_value_by_hand(description, program, value):
    """For x = 4 and y = -1; a remainder has the sign of its divisor."""
    assert task(description).program == f"def f(x,y):return {program}"
    assert task(description).value((4, -1)) == value
    assert task(description).description == description


def test_worked_answers_pass_their_tests():
    source = TinyPrograms(train_size=300)
    for problem, chat in zip(source.problems("train"), source.chats("train"), strict=True):
        assert chat[0]["content"] == content(problem)
        names: dict = {}
        exec(chat[1]["content"], names)  # our own text
        for case in problem.reference["tests"] + problem.reference["public"]:
            assert names["f"](*case["args"]) == case["expected"]
        assert set(chat[0]["content"] + chat[1]["content"]) <= ALPHABET


def test_hidden_tests_are_not_shown():
    for problem in TinyPrograms(train_size=200, public_tests=2).problems("train"):
        hidden = [tuple(case["args"]) for case in problem.reference["tests"]]
        public = [tuple(case["args"]) for case in problem.reference["public"]]
        assert len({*hidden, *public}) == 6 + 2
        shown = content(problem).removesuffix(":").split("; ")[1:]
        assert shown == [f"f({x},{y})={task(described(problem)).value((x, y))}" for x, y in public]


def test_leaving_out_a_step_fails_a_hidden_test():
    useless = task("x max 2, max 3")
    assert not is_needed_throughout(useless, [(x, 0) for x in range(-20, 21)])
    assert not is_needed_throughout(task("x max 2, plus y"), [(5, 1), (9, 2)])
    assert is_needed_throughout(task("x max 2, plus y"), [(5, 1), (1, 0)])
    for problem in TinyPrograms(train_size=100).problems("train"):
        whole = task(described(problem))
        for index in range(len(whole.steps)):
            shorter = Task(whole.start, whole.steps[:index] + whole.steps[index + 1 :])
            assert any(shorter.value(c["args"]) != c["expected"] for c in problem.reference["tests"])


def test_no_function_is_in_two_splits():
    """Functions are compared on inputs of the test's own: all pairs of these."""
    numbers = (-20, -13, -4, -1, *range(11), 14, 20)
    inputs = [(x, y) for x in numbers for y in numbers]
    source = TinyPrograms(steps=(2,), train_size=1500, held_out_size=300)
    seen = {
        split: {tuple(task(described(p)).values(inputs)) for p in source.problems(split)} for split in SPLITS
    }
    assert all(len(functions) > 100 for functions in seen.values())
    assert not seen["train"] & (seen["validation"] | seen["test"])
    assert not seen["validation"] & seen["test"]


def test_twins_share_a_key():
    assert key_of(task("x plus y, plus 3")) == key_of(task("y plus 3, plus x"))
    assert key_of(task("x plus 2, plus 3")) == key_of(task("x plus 4, plus 1"))
    assert key_of(task("x plus y, times 3")) != key_of(task("x times 3, plus y"))


def test_held_out_tasks_are_as_hard_as_those_of_training():
    source = TinyPrograms(train_size=1500, held_out_size=1500)
    steps = {
        split: sum(described(p).count(",") + 1 for p in source.problems(split)) / 1500
        for split in ("train", "test")
    }
    assert abs(steps["train"] - steps["test"]) < 0.08  # standard error .018


def test_the_same_index_gives_the_same_problem():
    assert TinyPrograms().problems("train")[7] == TinyPrograms(train_size=8).problems("train")[7]
    assert TinyPrograms(seed=1).problems("train")[7] != TinyPrograms().problems("train")[7]
    assert TinyPrograms().draw(Random(3)) == TinyPrograms().draw(Random(3))


@pytest.mark.parametrize("wrong", [{"steps": ()}, {"steps": (0,)}, {"hidden_tests": 0}, {"public_tests": -1}])
def test_settings_that_make_no_task_are_refused(wrong):
    with pytest.raises(InputError, match="a task needs"):
        TinyPrograms(**wrong)
