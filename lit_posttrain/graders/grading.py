"""Grades a batch of completions within a deadline, whatever the grader does."""

import math
import threading
import time
from collections.abc import Sequence

from lit_posttrain import interruption
from lit_posttrain.batches import Completion, Grade, Problem, Verdict
from lit_posttrain.contracts import Grader
from lit_posttrain.graders.single import ungraded

Item = tuple[Problem, Completion]

CHUNK = 64
MAX_THREADS = 4
LOOK_S = 0.2
"""How often a wait for grades looks whether the run is to stop."""


def grade_all(grader: Grader, items: Sequence[Item], *, deadline_s: float) -> list[Grade]:
    """One grade per item, in order, after `deadline_s` seconds at the latest.

    Never raises on model text or a failing grader: items that make the grader raise get reward None and the
    verdict `grader_error`; those not graded in time get None and `grader_timeout`. Grading runs in threads in
    chunks; while a chunk stands still, another thread goes on with the next, up to four at once.

    A thread cannot be stopped: a grader that hangs in this process leaves its thread behind. Graders that run
    code of others own processes, which they kill.
    """
    if not items:
        return []
    work = _Work(grader, list(items))
    stops_at = time.monotonic() + deadline_s
    for started in range(1, MAX_THREADS + 1):
        threading.Thread(target=work.run, daemon=True, name="grading").start()
        patience_s = deadline_s / (MAX_THREADS + 1) if started < MAX_THREADS else deadline_s
        if work.wait_while_moving(patience_s, stops_at):
            break
    return work.result()


class _Work:
    """Chunks of items, taken by threads; results stay open (None) until written."""

    def __init__(self, grader: Grader, items: list[Item]) -> None:
        self.grader, self.items = grader, items
        self.starts = iter(range(0, len(items), CHUNK))
        self.grades: list[Grade | None] = [None] * len(items)
        self.open_chunks = math.ceil(len(items) / CHUNK)
        self.changed = threading.Condition()
        self.is_over = False

    def run(self) -> None:
        """Grades chunk after chunk until none is left."""
        while True:
            with self.changed:
                start = None if self.is_over else next(self.starts, None)
            if start is None:
                return
            grades = grade_apart(self.grader, self.items[start : start + CHUNK])
            with self.changed:
                if not self.is_over:
                    self.grades[start : start + len(grades)] = grades
                self.open_chunks -= 1
                self.changed.notify_all()

    def wait_while_moving(self, patience_s: float, stops_at: float) -> bool:
        """Waits; True when all is graded or time is up, False when no chunk was finished for `patience_s`."""
        moved_at = time.monotonic()
        with self.changed:
            while self.open_chunks:
                left_s = stops_at - time.monotonic()
                if left_s <= 0:
                    return True
                interruption.safe_point()
                if self.changed.wait(min(patience_s, left_s, LOOK_S)):
                    moved_at = time.monotonic()
                elif time.monotonic() - moved_at >= patience_s < left_s:
                    return False
            return True

    def result(self) -> list[Grade]:
        """What was graded; the rest out of time. Threads that are still running are no longer heard."""
        late = ungraded(Verdict.GRADER_TIMEOUT, "not graded before the deadline of the batch")
        with self.changed:
            self.is_over = True
            return [grade or late for grade in self.grades]


def grade_apart(grader: Grader, items: Sequence[Item]) -> list[Grade]:
    """Grades items together; where that fails, halves them until the failing ones stand alone."""
    try:
        return _checked(grader.grade(items), len(items))
    except BaseException as error:  # a grader may raise anything, SystemExit included
        if len(items) == 1:
            return [ungraded(Verdict.GRADER_ERROR, f"{type(error).__name__}: {error}"[:300])]
    middle = len(items) // 2
    return grade_apart(grader, items[:middle]) + grade_apart(grader, items[middle:])


def _checked(grades: list[Grade], wanted: int) -> list[Grade]:
    if len(grades) != wanted:
        raise ValueError(f"the grader gave {len(grades)} grades for {wanted} completions")
    for grade in grades:
        if not isinstance(grade, Grade):
            raise TypeError(f"the grader gave a {type(grade).__name__} where a Grade was due")
        if grade.reward is not None and not math.isfinite(grade.reward):
            raise ValueError(f"the grader gave the reward {grade.reward}")
    return grades
