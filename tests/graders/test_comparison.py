import math
import time

import pytest

from lit_posttrain.graders.comparison import alike, near, same, same_text
from lit_posttrain.graders.sandbox.interface import Reference

NAN = math.nan


@pytest.mark.parametrize(
    ("expected", "answer", "is_same", "is_alike"),
    [
        (6, 6, True, True),
        (6, 6.0, False, True),
        (1, True, False, True),
        (0, False, False, True),
        ("a", "a", True, True),
        ("a", b"a", False, False),
        (None, None, True, True),
        (None, 0, False, False),
        ([1, 2], [1, 2], True, True),
        ([1, 2], (1, 2), False, False),
        ([1, 2], [1, 2.0], False, True),
        ([1, [True]], [1, [1]], False, True),
        ([1], [1, 2], False, False),
        ({1, 2}, {2, 1}, True, True),
        ({1, 2}, {1.0, 2}, False, True),
        ({1}, frozenset({1}), False, True),
        ({(1, 2)}, {(1, 2.0)}, False, True),
        ({"a": 1}, {"a": 1}, True, True),
        ({"a": 1}, {"a": True}, False, True),
        ({1: "a"}, {True: "a"}, False, True),
        ({"a": 1}, {"a": 1, "b": 2}, False, False),
        (NAN, NAN, False, False),
        ([NAN], [float("nan")], False, False),
        ({NAN}, {float("nan")}, False, False),
        (math.inf, math.inf, True, True),
        (Reference(1, "A"), Reference(1, "A"), False, False),
        ([Reference(-1, "A")], [Reference(-1, "A")], False, False),
        ({"a": Reference(1)}, {"a": Reference(1)}, False, False),
        (10**400, 10**400, True, True),
        (1.5, 10**400, False, False),
    ],
)
def test_two_ways_to_compare(expected, answer, is_same, is_alike):
    assert same(expected, answer) is is_same
    assert alike(expected, answer) is is_alike


@pytest.mark.parametrize(
    ("expected", "answer", "is_near"),
    [
        (1.0, 1.0 + 1e-7, True),
        (1.0, 1.0 + 1e-5, False),
        (1e9, 1e9 + 1, True),
        (0.0, 1e-7, True),
        (1.0, 1, True),
        (1.0, True, False),
        (1, 1.0, False),
        ([1.0, [2.0]], [1.0000001, [2.0]], True),
        ([1.0], (1.0,), False),
        ({"a": 1.0}, {"a": 1.0000001}, True),
        ({"a": 1.0}, {"b": 1.0}, False),
        (1.0, NAN, False),
        (NAN, NAN, False),
        (1.0, 10**400, False),
        (1.0, "1.0", False),
    ],
)
def test_near(expected, answer, is_near):
    assert near(expected, answer, 1e-6) is is_near


@pytest.mark.parametrize(
    ("printed", "trims", "is_same"),
    [
        (b"1 2\n3\n", True, True),
        (b"1 2 \n3\n\n\n", True, True),
        (b"1 2\r\n3", True, True),
        (b"1  2\n3", True, False),
        (b"1 2\n\n3", True, False),
        (b" 1 2\n3", True, False),
        (b"1 2\n3\n", False, True),
        (b"1 2\n3", False, False),
        (b"", True, False),
    ],
)
def test_texts(printed, trims, is_same):
    assert same_text(b"1 2\n3\n", printed, trims=trims) is is_same


def test_large_values_take_little_time():
    values = {(n, str(n)): [n] for n in range(20_000)}
    started = time.monotonic()
    assert same(values, dict(values))
    assert time.monotonic() - started < 2
