import enum
import json
import math
import sys
import time
from collections import Counter, OrderedDict, defaultdict, namedtuple

import pytest

from lit_posttrain.graders.sandbox import plain

LIMIT = 1 << 20


def kept(value):
    return -1, type(value).__name__


def there_and_back(value):
    return plain.decode(
        plain.encode(value, LIMIT, kept), LIMIT, lambda number, kind: ("object", number, kind)
    )


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        -1,
        2**63,
        -(2**200),
        1.5,
        -0.0,
        math.inf,
        2 - 3j,
        "",
        "\ud800 \x00 \u2028",
        b"\x00\xff",
        [1, [2, (3,)], {"a": {1: [2]}}],
        {(1, "x"): {2.5}, None: frozenset({1, (2, 3)})},
        set(),
        {},
        [int, str, dict],
        ["o", 1, "x"],
        ["l"],
    ],
)
def test_plain_values_come_back_with_their_types(value):
    back = there_and_back(value)
    assert back == value
    assert repr(back) == repr(value)


def test_nan_comes_back():
    assert math.isnan(there_and_back([math.nan])[0])


def test_lines_are_ascii_without_line_ends():
    line = plain.encode(["ä\n\u2028\ud800"], LIMIT, kept)
    assert line.isascii()
    assert b"\n" not in line


class AlwaysEqual(int):
    def __eq__(self, other):
        return True

    def __int__(self):
        raise AssertionError("called")

    __index__ = __repr__ = __str__ = __hash__ = __int__


class Shouting(str):
    def __str__(self):
        raise AssertionError("called")

    __len__ = __iter__ = encode = __str__


class Hiding(dict):
    def items(self):
        raise AssertionError("called")

    __iter__ = keys = __len__ = items


class Posing:
    __class__ = int


Pair = namedtuple("Pair", "a b")


class Colour(enum.IntEnum):
    RED = 3


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (AlwaysEqual(7), 7),
        (Shouting("abc"), "abc"),
        (Hiding(a=1), {"a": 1}),
        (Counter("aab"), {"a": 2, "b": 1}),
        (defaultdict(list, {1: [2]}), {1: [2]}),
        (OrderedDict(a=1), {"a": 1}),
        (Pair(1, 2), (1, 2)),
        (Colour.RED, 3),
        (bytearray(b"ab"), b"ab"),
    ],
    ids=["int", "str", "dict", "Counter", "defaultdict", "OrderedDict", "namedtuple", "IntEnum", "bytearray"],
)
def test_subclasses_are_what_they_hold(value, expected):
    back = there_and_back(value)
    assert type(back) is type(expected)
    assert back == expected


def test_other_objects_are_numbers():
    assert there_and_back([iter([]), Posing()]) == [("object", -1, "list_iterator"), ("object", -1, "Posing")]


def test_huge_integers_take_little_time():
    value = 7**400_000  # 1.1 million bits, 338,000 digits
    started = time.monotonic()
    assert there_and_back(value) == value
    assert time.monotonic() - started < 1
    assert sys.get_int_max_str_digits() == 4300


def nested(depth):
    value = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_depth_is_bounded_on_both_sides():
    assert there_and_back(nested(100)) == nested(100)
    with pytest.raises(plain.Oversize, match="100 deep"):
        plain.encode(nested(101), LIMIT, kept)
    for length in (200, 300_000):
        with pytest.raises(plain.Unfit):
            plain.decode(b'["l",' * length + b"1" + b"]" * length, LIMIT * 4, kept)


def test_brackets_in_texts_are_no_depth():
    text = '[\\"' * 1000
    assert there_and_back([text, "]" * 500]) == [text, "]" * 500]


def test_size_is_bounded_on_both_sides():
    for value in ("x" * 101, [0] * 101, b"x" * 51, 1 << 500, {n: n for n in range(51)}):
        with pytest.raises(plain.Oversize, match="100 bytes"):
            plain.encode(value, 100, kept)
    with pytest.raises(plain.Oversize):
        plain.decode(b"1" * 101, 100, kept)


def test_a_list_in_itself_is_too_deep():
    value = []
    value.append(value)
    with pytest.raises(plain.Oversize):
        plain.encode(value, LIMIT, kept)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"[1]",
        b'["q",1]',
        b'["L"]',
        b'{"a":1}',
        b"NaN",
        b"Infinity",
        b'["d",1]',
        b'["d",["l"],1]',
        b'["s",["l"]]',
        b'["i",5]',
        b'["i","5","6"]',
        b'["i","zz"]',
        b'["f","1e5"]',
        b'["c",1,2]',
        b'["b","0"]',
        b'["y","object"]',
        b'["y",["l"]]',
        b'["o",1]',
        b'["o",-2,"x"]',
        b'["o",true,"x"]',
        b'["o",1,["l"]]',
        b'["o",9223372036854775808,"x"]',
        b"1" * 5000,
        b"\xff",
        b'"\xc3\xa4"',
        b"nul",
        b"1 2",
    ],
)
def test_what_nobody_would_write_is_refused(line):
    with pytest.raises(plain.Unfit):
        plain.decode(line, LIMIT, lambda number, kind: None)


def test_colliding_keys_are_refused_before_they_cost_time():
    modulus = 2**61 - 1
    colliding = [["i", format(n * modulus, "x")] for n in range(1, 20_000)]
    started = time.monotonic()
    with pytest.raises(plain.Unfit, match="hash"):
        plain.decode(json.dumps(["s", *colliding]).encode(), LIMIT, kept)
    assert time.monotonic() - started < 2
