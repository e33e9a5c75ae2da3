"""Numbers as people write them, read as exact rationals; nothing is ever evaluated."""

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_DIGITS = 64

_UNSIGNED = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_ONE = rf"(?:{_UNSIGNED})(?:[eE][+-]?[0-9]{{1,3}}(?![0-9]))?"
_SIGNED = rf"(?P<sign>[+-]?) ?[$€£]? ?(?P<inner>-?)(?P<over>{_ONE})(?:/(?P<under>{_UNSIGNED}))?"  # noqa: RUF001
_MIXED = re.compile(r"(?P<sign>[+-]?)(?P<whole>[0-9]{1,9}) +(?P<over>[0-9]{1,9})/(?P<under>[0-9]{1,9})")
_WHOLE_TEXT = re.compile(_SIGNED + r" ?(?P<percent>%?)\.?")
_IN_TEXT = re.compile(rf"(?<![0-9A-Za-z_)\].])(?<![0-9A-Za-z)] )[+-](?=[$€£]?(?:{_ONE}))|")  # sign lookup below
_TOO_LONG = re.compile(r"[0-9]{%d}" % (MAX_DIGITS + 1))


@dataclass(frozen=True)
class Number:
    """An exact value and how it was written; `50%` has the value 50 and `is_percent`."""

    value: Fraction
    is_decimal: bool = False
    is_percent: bool = False
