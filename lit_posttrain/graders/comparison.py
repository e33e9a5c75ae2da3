"""Compares what a program answered with what was expected: plain data on both sides, nothing of it is called."""

import math
from typing import Any

from lit_posttrain.graders.sandbox.interface import Reference


def same(expected: Any, answer: Any) -> bool:
    """Whether two plain values are the same, type by type: bool is not int, int not float, list not tuple.

    NaN is the same as nothing, not even itself, and so is an object that could not leave its box.
    """
    if type(expected) is not type(answer) or isinstance(answer, Reference):
        return False
    if isinstance(expected, list | tuple):
        return len(expected) == len(answer) and all(map(same, expected, answer))
    if isinstance(expected, set | frozenset):
        return len(expected) == len(answer) and set(map(_typed, expected)) == set(map(_typed, answer))
    if isinstance(expected, dict):
        theirs = {_typed(key): value for key, value in answer.items()}
        return len(expected) == len(answer) and all(
            _typed(key) in theirs and same(value, theirs[_typed(key)]) for key, value in expected.items()
        )
    return expected == answer


def alike(expected: Any, answer: Any) -> bool:
    """Whether two plain values are equal as Python has it: `True == 1 == 1.0`; but objects equal nothing."""
    return not holds_object(expected) and not holds_object(answer) and bool(expected == answer)


def near(expected: Any, answer: Any, tolerance: float) -> bool:
    """As `same`, but finite floats may differ by this, absolutely or relative to the larger one."""
    if isinstance(expected, float) and type(answer) in (float, int):
        return _close(expected, answer, tolerance)
    if isinstance(expected, list | tuple):
        return (
            type(expected) is type(answer)
            and len(expected) == len(answer)
            and all(near(left, right, tolerance) for left, right in zip(expected, answer, strict=True))
        )
    if isinstance(expected, dict):
        return (
            type(answer) is dict
            and expected.keys() == answer.keys()
            and all(near(value, answer[key], tolerance) for key, value in expected.items())
        )
    return same(expected, answer)


def same_text(expected: bytes, printed: bytes, *, trims: bool) -> bool:
    """Whether a program printed this; with `trims`, spaces at line ends and empty lines at the end do not count."""
    return _trimmed(expected) == _trimmed(printed) if trims else expected == printed


def holds_object(value: Any) -> bool:
    """Whether an object that is no plain data is somewhere in a value."""
    if isinstance(value, dict):
        return any(holds_object(key) or holds_object(inner) for key, inner in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(holds_object, value))
    return isinstance(value, Reference)


def _close(expected: float, answer: float, tolerance: float) -> bool:
    try:
        return math.isclose(expected, answer, rel_tol=tolerance, abs_tol=tolerance)
    except OverflowError:  # an int beyond all floats
        return False


def _typed(value: Any) -> Any:
    """A key that is equal only for values that are the same; NaN gets one of its own each time."""
    if isinstance(value, tuple):
        return (tuple, *map(_typed, value))
    if isinstance(value, frozenset):
        return (frozenset, frozenset(map(_typed, value)))
    return (type(value), object() if value != value or isinstance(value, Reference) else value)


def _trimmed(text: bytes) -> list[bytes]:
    lines = [line.rstrip() for line in text.split(b"\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines
