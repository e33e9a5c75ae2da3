"""Work that all processes do together: if it fails in one of them, it fails in all."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import distributed

from lit_posttrain.checkpoints import manifest
from lit_posttrain.errors import InputError

T = TypeVar("T")


def together(work: Callable[[], T]) -> list[T]:
    """Does the work in every process and returns all results, in their order; collective.

    If it fails in any process, all of them raise: the same kind of error (of the disk, of the input, or another).
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return [work()]
    problem: Exception | None = None
    result: T | None = None
    try:
        result = work()
    except Exception as error:  # whatever it is: the other processes wait to be told
        problem = error
    everyone: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everyone, (result, _told(problem)))
    failures = [(rank, told) for rank, (_, told) in enumerate(everyone) if told is not None]
    if failures:
        raise _joint_error(failures, problem)
    return [given for given, _ in everyone]


Told = tuple[type[Exception], int, str]
"""An error as other processes are told of it: its kind, its number if it is the system's, and its words."""


def _told(problem: Exception | None) -> Told | None:
    if problem is None:
        return None
    if isinstance(problem, OSError):
        return OSError, problem.errno or 0, f"{problem.strerror or problem}"
    kind = next(
        (kind for kind in (manifest.Damaged, InputError, TypeError) if isinstance(problem, kind)),
        RuntimeError,
    )
    return kind, 0, f"{problem}" if kind is not RuntimeError else f"{type(problem).__name__}: {problem}"


def _joint_error(failures: Sequence[tuple[int, Told]], mine: Exception | None) -> Exception:
    """What to raise: an error of the disk only if there is no other, so that all processes go on or none does."""
    worse = [failure for failure in failures if failure[1][0] is not OSError]
    failed, (kind, number, words) = (worse or failures)[0]
    if mine is not None and failed == rank():
        return mine
    text = f"{words} (in process {failed})"
    error = OSError(number, text) if kind is OSError else kind(text)
    error.__cause__ = mine
    return error


def rank() -> int:
    """The number of this process; 0 where there is only one."""
    return distributed.get_rank() if distributed.is_initialized() else 0
