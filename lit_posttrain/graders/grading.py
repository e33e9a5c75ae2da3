"""Grades completions within a deadline, whatever the grader does, and while further ones are written."""

import math
import threading
import time
from collections.abc import Sequence
from typing import Self

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
    """One grade per item, in order, after `deadline_s` seconds at the latest; see `Grading`."""
    with Grading(grader) as grading:
        for item in items:
            grading.add(item)
        return grading.result(deadline_s)


class Grading:
    """Grades items as they come, beside whatever makes them. Use as a context manager.

    Never raises on model text or a failing grader: items that make the grader raise get reward None and the
    verdict `grader_error`; those not graded in time get None and `grader_timeout`. Grading runs in threads in
    chunks; while a chunk stands still after the last item came, another thread goes on with the next, up to four
    at once.

    A thread cannot be stopped: a grader that hangs in this process leaves its thread behind. Graders that run
    code of others own processes, which they kill.

    Args:
        grader: Judges the items.
    """

    def __init__(self, grader: Grader) -> None:
        self.grader = grader
        self.items: list[Item] = []
        self.grades: list[Grade | None] = []
        self.taken, self.done, self.threads = 0, 0, 0
        self.changed = threading.Condition()
        self.is_complete, self.is_over = False, False

    def add(self, item: Item) -> int:
        """Takes in one item; gives its place in the result."""
        with self.changed:
            self.items.append(item)
            self.grades.append(None)
            is_due = len(self.items) - self.taken >= CHUNK
            if is_due:
                self.changed.notify_all()
        if is_due and not self.threads:
            self._start_thread()
        return len(self.items) - 1

    def result(self, deadline_s: float) -> list[Grade]:
        """The grades of all items in the order in which they came, after `deadline_s` seconds at the latest."""
        if not self.items:
            return []
        with self.changed:
            self.is_complete = True
            self.changed.notify_all()
        stops_at = time.monotonic() + deadline_s
        while True:
            if not self.threads:
                self._start_thread()
            can_start = self.threads < MAX_THREADS
            if self._wait_while_moving(deadline_s / (MAX_THREADS + 1) if can_start else deadline_s, stops_at):
                return self._so_far()
            self._start_thread()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self.changed:
            self.is_over = True
            self.changed.notify_all()

    def _start_thread(self) -> None:
        self.threads += 1
        threading.Thread(target=self._work, daemon=True, name="grading").start()

    def _work(self) -> None:
        """Grades chunk after chunk until none is left."""
        while chunk := self._take():
            grades = grade_apart(self.grader, [self.items[place] for place in chunk])
            with self.changed:
                if not self.is_over:
                    self.grades[chunk.start : chunk.stop] = grades
                self.done += len(chunk)
                self.changed.notify_all()

    def _take(self) -> range | None:
        """The places of the next chunk, once it is full or nothing more comes; None at the end."""
        with self.changed:
            while not self.is_over:
                left = len(self.items) - self.taken
                if left >= CHUNK or (self.is_complete and left):
                    chunk = range(self.taken, self.taken + min(left, CHUNK))
                    self.taken = chunk.stop
                    return chunk
                if self.is_complete:
                    return None
                self.changed.wait()
        return None

    def _wait_while_moving(self, patience_s: float, stops_at: float) -> bool:
        """Waits; True when all is graded or time is up, False when no chunk was finished for `patience_s`."""
        moved_at, done = time.monotonic(), self.done
        with self.changed:
            while self.done < len(self.items):
                left_s = stops_at - time.monotonic()
                if left_s <= 0:
                    return True
                interruption.safe_point()
                self.changed.wait(min(patience_s, left_s, LOOK_S))
                if self.done > done:
                    moved_at, done = time.monotonic(), self.done
                elif time.monotonic() - moved_at >= patience_s < left_s and self.threads < MAX_THREADS:
                    return False
            return True

    def _so_far(self) -> list[Grade]:
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
