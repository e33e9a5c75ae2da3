"""Canonical keys of answers, for voting: equal texts for equal answers, with no gold answer in sight."""

import re
from collections.abc import Callable
from fractions import Fraction

from lit_posttrain.graders.lists import FREE, split_list
from lit_posttrain.graders.notation import as_number, fault, split_name, split_unit
from lit_posttrain.graders.words import word

SymbolicForm = Callable[[str], str | None]

MAX_ELEMENTS = 16
_PROSE = re.compile(r"(?<![\\A-Za-z])(?<!\\begin\{)(?<!\\end\{)[A-Za-z]{4,}|\\text")
VALUE_UNITS = ("", "dollar", "degree")
"""Units that are dropped, since their signs are: `$5` and `30^\\circ` are read as numbers."""


def key(answer: str, symbolic: SymbolicForm) -> str:
    """The canonical key of a simplified answer; what has no canonical form keeps its own spelling.

    Numbers are rationals in lowest terms (`50%` is `1/2`), with the unit where there is one; words are in
    small letters; `x = 5` is `5`; lists are taken element by element, sets and bare lists in sorted order;
    the rest is what `symbolic` gives.
    """
    chosen = word(answer)
    if chosen:
        return chosen
    if fault(answer):
        return spelling(answer)
    return _value_key(split_name(answer)[1], symbolic)


def spelling(answer: str) -> str:
    """The text without blanks."""
    return re.sub(r"\s+", "", answer)


def _value_key(answer: str, symbolic: SymbolicForm) -> str:
    body, unit = split_unit(answer)
    suffix = "" if unit in VALUE_UNITS else f" {unit}"
    number = as_number(answer)
    if number:
        return str(number.value / 100 if number.is_percent else Fraction(number.value)) + suffix
    found = split_list(answer)
    if found and len(found[1]) <= MAX_ELEMENTS and all(found[1]):
        return _list_key(*found, symbolic)
    form = None if _PROSE.search(body) else symbolic(body)
    return spelling(answer) if form is None else form + suffix


def _list_key(kind: str, parts: list[str], symbolic: SymbolicForm) -> str:
    names = [split_name(part)[0] for part in parts]
    keys = [key(part, symbolic) for part in parts]
    if len(set(names)) > 1:  # `x=1, y=2` is not `x=2, y=1`
        keys = [f"{name}={own}" for name, own in zip(names, keys, strict=True)]
    if kind in FREE:
        return "{" + ",".join(sorted(keys)) + "}"
    return f"{kind[0]}{','.join(keys)}{kind[1]}"
