"""Numbers as people write them, read as exact rationals; nothing is ever evaluated."""

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_DIGITS = 64

_UNSIGNED = r"(?:[0-9]{1,3}(?:,[0-9]{3}){1,21}(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_OVER = rf"(?P<over>(?:{_UNSIGNED})(?:[eE][+-]?[0-9]{{1,3}}(?![0-9]))?)"
_UNDER = rf"(?:/(?P<under>{_UNSIGNED}))?"
_CURRENCY = "[$€£]?"
_SIGNED = rf"(?P<sign>[+-]? ?{_CURRENCY} ?-?){_OVER}{_UNDER}"
_WHOLE_TEXT = re.compile(rf"{_SIGNED} ?(?P<percent>%?)\.?")
_MIXED = re.compile(r"(?P<sign>[+-]?)(?P<whole>[0-9]{1,9}) +(?P<over>[0-9]{1,9})/(?P<under>[0-9]{1,9})")
_IN_TEXT = re.compile(
    rf"(?P<sign>(?:(?<![0-9A-Za-z)\].])-)?(?:[$€£]-?)?)(?<![0-9A-Za-z_.]){_OVER}{_UNDER}(?P<percent>%?)"
)
_TOO_LONG = re.compile(rf"[0-9]{{{MAX_DIGITS + 1}}}")


@dataclass(frozen=True)
class Number:
    """An exact value and how it was written: `50%` has the value 50 and is a percentage."""

    value: Fraction
    is_decimal: bool = False
    is_percent: bool = False

    @property
    def key(self) -> str:
        """The canonical form, equal for equal values: `3/2`, `-7`."""
        return str(self.value)


def read_number(text: str) -> Number | None:
    """The number that a whole text is: integer, decimal, fraction or mixed number.

    Thousands commas, a currency sign, a percent sign and a trailing full stop are allowed. None if the text
    is anything else, has more than 64 digits in a row, or divides by zero.
    """
    text = text.strip()
    if len(text) > 4 * MAX_DIGITS:
        return None
    mixed = _MIXED.fullmatch(text)
    if mixed:
        part = _number("", mixed["over"], mixed["under"], "")
        if part is None:
            return None
        value = int(mixed["whole"]) + part.value
        return Number(-value if mixed["sign"] == "-" else value)
    match = _WHOLE_TEXT.fullmatch(text)
    return _from_match(match) if match else None


def last_number(text: str) -> tuple[bool, Number | None]:
    """Whether the text holds a number at all, and its last one (None if that one cannot be read)."""
    found = None
    for found in _IN_TEXT.finditer(text):  # noqa: B007
        pass
    return found is not None, _from_match(found) if found else None


def number_at(text: str, position: int) -> Number | None:
    """The number that starts at a position of the text, after blanks."""
    while position < len(text) and text[position] in " \t*":
        position += 1
    found = _IN_TEXT.match(text, position)
    return _from_match(found) if found else None


def equal(gold: Number, answer: Number, relative_tolerance: float = 0.0) -> bool:
    """Whether an answer has the value of the gold number.

    The tolerance holds only where gold was written as a decimal. A percent sign on one side only may mean
    either `50` or `1/2`, so both are accepted.
    """
    pairs = [(gold.value, answer.value)]
    if gold.is_percent and not answer.is_percent:
        pairs.append((gold.value / 100, answer.value))
    if answer.is_percent and not gold.is_percent:
        pairs.append((gold.value, answer.value / 100))
    slack = Fraction(relative_tolerance) if gold.is_decimal else Fraction(0)
    return any(abs(wanted - got) <= slack * abs(wanted) for wanted, got in pairs)


def _from_match(match: re.Match[str]) -> Number | None:
    return _number(match["sign"], match["over"], match["under"], match["percent"])


def _number(sign: str, over: str, under: str | None, percent: str) -> Number | None:
    if _TOO_LONG.search(over) or (under and _TOO_LONG.search(under)):
        return None
    value = Fraction(over.replace(",", ""))
    if under:
        below = Fraction(under.replace(",", ""))
        if not below:
            return None
        value /= below
    is_decimal = "." in over or "e" in over.lower()
    return Number(-value if sign.count("-") == 1 else value, is_decimal, percent == "%")
