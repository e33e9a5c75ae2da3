"""Graders that are out of order: the run waits for them and learns nothing meanwhile."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence

from lit_posttrain import interruption
from lit_posttrain.batches import OUTAGE_VERDICTS, Answer, Grade, Verdict
from lit_posttrain.contracts import Patience
from lit_posttrain.errors import InputError

log = logging.getLogger(__name__)

LONGEST_WAIT_S = 60.0
LOOK_S = 0.2


def outlast(
    grades: Sequence[Grade], again: Callable[[Sequence[int]], Sequence[Grade]], patience: Patience
) -> list[Grade]:
    """The grades, with those that an outage kept back asked for again until few enough are left.

    An outage is a sandbox or grader that does not answer. A grader that raises is a mistake in it, see
    `check_grader`.

    Args:
        grades: Of one rollout.
        again: Grades the answers at these places once more.
        patience: When to pause and when to give up.

    Raises:
        Interrupted: if the outage lasted too long, so that the run ends with a checkpoint.
    """
    grades, began, wait_s = list(grades), time.monotonic(), patience.first_wait_s
    while len(out := _out(grades)) > patience.pause_above * len(grades):
        reason = _in_words(grades, out)
        if time.monotonic() - began + wait_s > patience.give_up_after_s:
            raise interruption.Interrupted(f"{reason}; gave up after {time.monotonic() - began:.0f} s")
        log.warning("training pauses: %s; asking again in %.0f s", reason, wait_s)
        _sleep(wait_s)
        for place, grade in zip(out, again(out), strict=True):
            grades[place] = grade
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)
    if time.monotonic() - began > patience.first_wait_s:
        log.warning("training goes on: graders are back after %.0f s", time.monotonic() - began)
    return grades


def check_grader(answers: Sequence[Sequence[Answer]]) -> None:
    """Stops a run that nothing can be learned in.

    Raises:
        InputError: if the grader raised on every answer of a rollout.
    """
    grades = [answer.grade for group in answers for answer in group]
    if grades and all(grade.verdict is Verdict.GRADER_ERROR for grade in grades):
        raise InputError(
            f"the grader failed on all {len(grades)} answers of a rollout, so there is nothing to learn from; on the "
            f"first with: {grades[0].note}"
        )


def _out(grades: Sequence[Grade]) -> list[int]:
    return [
        place
        for place, grade in enumerate(grades)
        if grade.verdict in OUTAGE_VERDICTS and grade.verdict is not Verdict.GRADER_ERROR
    ]


def _in_words(grades: Sequence[Grade], out: Sequence[int]) -> str:
    verdicts = Counter(str(grades[place].verdict) for place in out)
    told = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    note = next((grades[place].note for place in out if grades[place].note), "")
    return f"{len(out)} of {len(grades)} answers could not be graded ({told}{f': {note}' if note else ''})"


def _sleep(seconds: float) -> None:
    """Waits, but not for a run that is to stop."""
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        interruption.safe_point()
        time.sleep(min(left, LOOK_S))
