"""Plain data as bytes and back, between a box and those who watch it; standard library only, loaded by path there.

Plain are None, bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict and the basic types
themselves; whatever else there is becomes a number. One JSON value each, ASCII, without line ends: numbers, texts
and None stand for themselves, anything else is an array that starts with its tag.
"""

import json
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 100
MAX_COLLISIONS = 512
"""Keys of one dict or set that may share a hash: more cost their reader quadratic time."""
TAG_DEPTH = 1
"""Levels that a number or text with a tag may add to those that are counted."""
SMALL = 1 << 63

TYPES = {
    kind.__name__: kind for kind in (bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict)
}
NAMES = {kind: name for name, kind in TYPES.items()}
BASES = (int, str, float, list, tuple, dict, set, frozenset, bytes, bytearray, complex)

Refer = Callable[[Any], tuple[int, str]]
Resolve = Callable[[int, str], Any]


class Unfit(ValueError):
    """Data that cannot be carried: too large, too deep, or malformed."""


class Oversize(Unfit):
    """Data beyond the bounds of size or depth."""


def encode(value: Any, max_bytes: int, refer: Refer) -> bytes:
    """A value as at most `max_bytes` bytes of one line.

    Subclasses of plain types are written as the plain value that they hold: none of their own methods is called.

    Args:
        value: What to write.
        max_bytes: The bound.
        refer: Number and kind of an object that is no plain data.

    Raises:
        Oversize: if it is too large, or nested more than 100 deep.
    """
    text = _WRITER.encode(_Packing(max_bytes, refer).pack(value, 0))
    if len(text) > max_bytes:
        raise Oversize(f"more than {max_bytes} bytes")
    return text.encode("ascii")


class _Packing:
    """One value on its way to JSON, and how many more characters it may have."""

    def __init__(self, max_bytes: int, refer: Refer) -> None:
        self.max_bytes, self.left, self.refer = max_bytes, max_bytes, refer

    def pack(self, value: Any, depth: int) -> Any:
        self.spend(1)
        if value is None or value is True or value is False:
            return value
        kind = type(value)
        base = kind if kind in PACKERS else next((b for b in BASES if issubclass(kind, b)), None)
        if base is None:
            return ["y", NAMES[value]] if kind is type and value in NAMES else ["o", *self.refer(value)]
        if depth >= MAX_DEPTH:
            raise Oversize(f"nested more than {MAX_DEPTH} deep")
        return PACKERS[base](self, value, depth + 1)

    def spend(self, characters: int) -> None:
        self.left -= characters
        if self.left < 0:
            raise Oversize(f"more than {self.max_bytes} bytes")

    def integer(self, value: int, depth: int) -> Any:
        value = int.__int__(value)
        if -SMALL < value < SMALL:
            return value
        self.spend(value.bit_length() // 4)
        return ["i", format(value, "x")]

    def text(self, value: str, depth: int) -> str:
        self.spend(str.__len__(value))
        return str.__str__(value)

    def number(self, value: float, depth: int) -> Any:
        value = float.__float__(value)
        return value if math.isfinite(value) else ["f", repr(value)]

    def binary(self, value: bytes, depth: int) -> list[Any]:
        value = bytes(value) if issubclass(type(value), bytearray) else bytes.__bytes__(value)
        self.spend(2 * len(value))
        return ["b", value.hex()]

    def pair(self, value: complex, depth: int) -> list[Any]:
        value = complex.__complex__(value)
        return ["c", self.pack(value.real, depth), self.pack(value.imag, depth)]

    def mapping(self, value: dict[Any, Any], depth: int) -> list[Any]:
        packed: list[Any] = ["d"]
        for key, content in dict.items(value):
            packed += (self.pack(key, depth), self.pack(content, depth))
        return packed


def _series(tag: str, base: Any) -> Callable[[_Packing, Any, int], list[Any]]:
    def pack(packing: _Packing, value: Any, depth: int) -> list[Any]:
        return [tag, *[packing.pack(item, depth) for item in base.__iter__(value)]]

    return pack


PACKERS: dict[type, Callable[[_Packing, Any, int], Any]] = {
    int: _Packing.integer,
    str: _Packing.text,
    float: _Packing.number,
    list: _series("l", list),
    tuple: _series("t", tuple),
    dict: _Packing.mapping,
    set: _series("s", set),
    frozenset: _series("z", frozenset),
    bytes: _Packing.binary,
    bytearray: _Packing.binary,
    complex: _Packing.pair,
}


def decode(data: bytes, max_bytes: int, resolve: Resolve) -> Any:
    """The value that a line of bytes says, whoever wrote it: nothing in it is executed, and its cost is bounded.

    Args:
        data: The bytes, without the line's end.
        max_bytes: The bound.
        resolve: The object that a number and a kind stand for.

    Raises:
        Oversize: for more bytes, or more than 100 levels.
        Unfit: for anything that `encode` would not write.
    """
    if len(data) > max_bytes:
        raise Oversize(f"more than {max_bytes} bytes")
    if _is_deep(data):
        raise Oversize(f"nested more than {MAX_DEPTH} deep")
    try:
        return _unpack(_READER.decode(data.decode("ascii")), resolve)
    except Unfit:
        raise
    except (ValueError, TypeError, RecursionError) as error:
        raise Unfit(f"malformed data: {ascii(str(error))[:80]}") from None


def _is_deep(data: bytes) -> bool:
    """Whether brackets are nested deeper outside of texts than any honest message has them."""
    if data.count(b"[") <= MAX_DEPTH:
        return False
    depth = 0
    for number, part in enumerate(data.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')):
        if number % 2 == 0 and (b"[" in part or b"]" in part):
            for byte in part:
                depth += (byte == 91) - (byte == 93)
                if depth > MAX_DEPTH + TAG_DEPTH:
                    return True
    return False


def _refuse(found: Any) -> Any:
    raise Unfit(f"malformed data: {ascii(found)[:40]} has no place in it")


# made once: a grade of ten tests writes and reads 22 lines on either side
_WRITER = json.JSONEncoder(separators=(",", ":"))
_READER = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=_refuse)


def _unpack(packed: Any, resolve: Resolve) -> Any:
    if type(packed) is not list:
        return packed
    tag = packed[0] if packed else None
    if type(tag) is not str or tag not in UNPACKERS:
        raise Unfit(f"malformed data: unknown tag {ascii(tag)[:40]}")
    return UNPACKERS[tag](packed[1:], resolve)


def _items(packed: list[Any], resolve: Resolve) -> list[Any]:
    return [_unpack(item, resolve) if type(item) is list else item for item in packed]


def _keys(packed: list[Any], resolve: Resolve) -> list[Any]:
    return distinct_enough(_items(packed, resolve))


def distinct_enough(keys: list[Any]) -> list[Any]:
    """These keys, which a dict or a set can hold without much time.

    Raises:
        Unfit: if more than 512 of them share a hash.
    """
    if len(keys) > MAX_COLLISIONS and max(Counter(map(hash, keys)).values()) > MAX_COLLISIONS:
        raise Unfit("more keys of one hash than honest data has")
    return keys


def _dict(packed: list[Any], resolve: Resolve) -> dict[Any, Any]:
    return dict(zip(_keys(packed[::2], resolve), _items(packed[1::2], resolve), strict=True))


def _integer(packed: list[Any], resolve: Resolve) -> int:
    return int(_text(packed), 16)


def _special(packed: list[Any], resolve: Resolve) -> float:
    return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}.get(_text(packed)) or _refuse(packed)


def _complex(packed: list[Any], resolve: Resolve) -> complex:
    real, imaginary = _items(packed, resolve)
    if type(real) is not float or type(imaginary) is not float:
        _refuse(packed)
    return complex(real, imaginary)


def _basic_type(packed: list[Any], resolve: Resolve) -> type:
    return TYPES.get(_text(packed)) or _refuse(packed)


def _object(packed: list[Any], resolve: Resolve) -> Any:
    number, kind = packed
    if type(number) is not int or type(kind) is not str or not -1 <= number < SMALL:
        _refuse(packed)
    return resolve(number, kind)


def _text(packed: list[Any]) -> str:
    (text,) = packed
    return text if type(text) is str else _refuse(text)


UNPACKERS: dict[str, Callable[[list[Any], Resolve], Any]] = {
    "l": _items,
    "t": lambda packed, resolve: tuple(_items(packed, resolve)),
    "s": lambda packed, resolve: set(_keys(packed, resolve)),
    "z": lambda packed, resolve: frozenset(_keys(packed, resolve)),
    "d": _dict,
    "i": _integer,
    "f": _special,
    "b": lambda packed, resolve: bytes.fromhex(_text(packed)),
    "c": _complex,
    "y": _basic_type,
    "o": _object,
}
