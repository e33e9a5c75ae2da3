import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from lit_posttrain.batches import Completion, Grade, Problem, Verdict
from lit_posttrain.contracts import Grader
from lit_posttrain.graders import LengthWindow, grade_all
from lit_posttrain.graders.single import decided


@dataclass
class Scripted(Grader):
    """Does what the completion says; otherwise the reward is the reference."""

    calls: int = 0
    released: threading.Event = field(default_factory=threading.Event)

    def grade(self, items: Sequence[tuple[Problem, Completion]]) -> list[Grade]:
        self.calls += 1
        return [self._one(problem, completion.text) for problem, completion in items]

    def _one(self, problem: Problem, text: str) -> Grade:
        if text == "hang":
            self.released.wait()
        if text == "wrong type":
            return 1.0  # type: ignore[return-value]
        raises = {"raise": ValueError("oh"), "exit": SystemExit(1), "interrupt": KeyboardInterrupt()}
        if text in raises:
            raise raises[text]
        return Grade(float("nan") if text == "nan" else problem.reference, True, Verdict.CORRECT)


def test_order_is_kept_over_many_chunks(item):
    items = [item("fine", float(i)) for i in range(500)]
    assert [grade.reward for grade in grade_all(Scripted(), items, deadline_s=10)] == list(range(500))
    assert grade_all(Scripted(), [], deadline_s=1) == []


@pytest.mark.parametrize("fault", ["raise", "exit", "interrupt", "wrong type", "nan"])
def test_a_failing_item_costs_itself_only(item, fault):
    items = [item(fault if i in (3, 77) else "fine", float(i)) for i in range(100)]
    grades = grade_all(Scripted(), items, deadline_s=10)
    assert [i for i, grade in enumerate(grades) if grade.reward is None] == [3, 77]
    assert {grades[3].verdict, grades[77].verdict} == {Verdict.GRADER_ERROR}
    assert grades[3].note
    assert [grade.reward for i, grade in enumerate(grades) if i not in (3, 77)] == [
        i for i in range(100) if i not in (3, 77)
    ]


def test_a_hanging_item_costs_its_chunk_and_the_deadline_holds(item):
    grader = Scripted()
    items = [item("hang" if i == 70 else "fine", float(i)) for i in range(256)]
    start = time.perf_counter()
    grades = grade_all(grader, items, deadline_s=0.5)
    took_s = time.perf_counter() - start
    grader.released.set()
    assert 0.45 < took_s < 1.5
    late = [i for i, grade in enumerate(grades) if grade.verdict is Verdict.GRADER_TIMEOUT]
    assert late == list(range(64, 128))
    assert all(grades[i].reward is None for i in late)


def test_a_wrong_number_of_grades_is_never_shifted_onto_other_items(item):
    class Forgetful(Grader):
        def grade(self, items: Sequence[tuple[Problem, Completion]]) -> list[Grade]:
            return [decided(True) for _, completion in items if completion.text != "forgotten"]

    grades = grade_all(Forgetful(), [item("a"), item("forgotten"), item("b")], deadline_s=5)
    assert [grade.reward for grade in grades] == [1.0, None, 1.0]


def test_overhead_is_small(item):
    items = [item("some words", None)] * 1000
    grader = LengthWindow()
    best = min(_seconds(lambda: grade_all(grader, items, deadline_s=10)) for _ in range(5))
    alone = min(_seconds(lambda: grader.grade(items)) for _ in range(5))
    assert best - alone < 0.01  # 2 ms on an idle machine


def _seconds(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
