"""Lists, tuples, intervals and sets as texts: their brackets and their elements."""

import re

from lit_posttrain.graders.notation import as_number

FREE = ("{}", "")
"""Kinds of brackets (none among them) whose elements come in any order."""

_PLUS_MINUS = re.compile(r" *\\pm(?![A-Za-z]) *")


def is_set(gold: str) -> bool:
    """Whether a gold answer has several elements in any order."""
    found = None if as_number(gold) else split_list(gold)
    return found is not None and found[0] in FREE and len(found[1]) > 1


def split_list(text: str) -> tuple[str, list[str]] | None:
    """The kind of brackets (empty for none) and the elements of a list, tuple, interval or set."""
    text = text.replace(r"\{", "\x01").replace(r"\}", "\x02")
    kind, inside = "", text
    if text[:1] in ("(", "[", "\x01") and text[-1:] in (")", "]", "\x02") and _closes_at_end(text):
        kind, inside = (text[0] + text[-1]).replace("\x01", "{").replace("\x02", "}"), text[1:-1]
    if not kind and _PLUS_MINUS.search(text):
        return "", [_PLUS_MINUS.sub(sign, text).removeprefix("+") for sign in "+-"]
    parts = _split_commas(inside if kind else re.sub(r",? (?:and|or) ", ",", inside))
    if len(parts) < 2 and kind != "{}":
        return None
    return kind, [part.replace("\x01", r"\{").replace("\x02", r"\}").strip() for part in parts]


def _closes_at_end(text: str) -> bool:
    depth = 0
    for position, char in enumerate(text):
        depth += (char in "([{\x01") - (char in ")]}\x02")
        if depth == 0:
            return position == len(text) - 1
    return False


def _split_commas(text: str) -> list[str]:
    parts, depth, start = list[str](), 0, 0
    for position, char in enumerate(text):
        depth += (char in "([{\x01") - (char in ")]}\x02")
        if char == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [*parts, text[start:]]
