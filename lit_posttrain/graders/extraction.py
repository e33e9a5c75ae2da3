"""Finds the answer that a completion states."""

import re

from lit_posttrain.graders.rational import last_number

_BRACE = re.compile(r"\\f?box(?:ed)?\s*\{|\\.|[{}]", re.DOTALL)
_OPEN_BOX = re.compile(r"\\f?box(?:ed)?\s*\{")
_STATED = re.compile(
    r"####|^[ \t*#>]*(?:final[ \t]+)?(?:A|answer)[ \t*]*:|\b(?:answer|result)\b(?:\*\*)?\s*(?:is|:|=)",
    re.IGNORECASE | re.MULTILINE,
)
_SENTENCE_END = re.compile(r"\.(?:\s|$)")
_FORMULA = r"\$\$?[^$]+\$\$?|\\\(.+?\\\)|\\\[.+?\\\]"
_MATH = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_MATHS = re.compile(rf"(?:{_FORMULA})(?:(?:\s*,\s*(?:and|or)?|\s+(?:and|or))\s*(?:{_FORMULA}))*", re.DOTALL)
_VALUE = r"\$[^$\n]+\$|[$€£]?-?[0-9][0-9,]*(?:\.[0-9]+)?(?:/[0-9]+)?\\?%?"
_DENIED = re.compile(
    rf"\b(?:not|never|isn['\u2019]t|rather than|instead of)\s+(?:equal\s+to\s+|simply\s+)?(?:{_VALUE})(?![0-9A-Za-z^])",
    re.IGNORECASE,
)
_LEFT_OVER = re.compile(r"^[\s,;:.]*(?:(?:but|it is|it['\u2019]s|rather)\s+)*", re.IGNORECASE)
_LEADING_NUMBER = re.compile(
    r"[$€£]?-?[$€£]?[0-9][0-9,]*(?:\.[0-9]+)?(?:/[0-9]+)?(?:\\?%)?(?=\s+[A-Za-z]|\s*[,;(]\s*[A-Za-z])(?!\s*,?\s*(?:or|and|plus|minus|times|divided|over|percent)\b)"
)


def answer_text(text: str) -> str:
    """What follows the last `</think>`, or the whole text where there is none."""
    return text.rpartition("</think>")[2]


def boxed(text: str) -> list[str]:
    r"""The contents of all balanced `\boxed{...}` in order; of nested ones the outermost."""
    found: list[tuple[int, str]] = []
    stack: list[int] = []  # where each open brace's content starts; negative for ordinary braces
    for match in _BRACE.finditer(text):
        token = match[0]
        if token.endswith("{") and token != r"\{":
            stack.append(match.end() if len(token) > 1 else -1)
        elif token == "}" and stack:
            start = stack.pop()
            if start >= 0:
                while found and found[-1][0] > start:
                    found.pop()
                found.append((start, text[start : match.start()]))
    return [content.strip() for _, content in found]


def is_cut(text: str) -> bool:
    """Whether a box is opened and none is ever closed: the answer was cut off."""
    return _OPEN_BOX.search(text) is not None and not boxed(text)


def stated(text: str) -> str | None:
    """The last stated answer (`#### x`, `A: x`, `The answer is x`), else the last formula or number, else None.

    What a text denies (`not 7, it is 8`) is not stated.
    """
    last = None
    for last in _STATED.finditer(text):  # noqa: B007
        pass
    if last is not None:
        line = text[last.end() :].lstrip(" \t\n*:").partition("\n")[0]
        answer = _core(_affirmed(line))
        if answer:
            return answer
    text = _affirmed(text)
    return _last_formula(text) or _last_number(text)


def _affirmed(text: str) -> str:
    """The text without the values that it denies."""
    return _LEFT_OVER.sub("", _DENIED.sub(" ", text).strip())


def _core(line: str) -> str:
    """The answer in the rest of a line: its formulas, or its leading number, or its first sentence."""
    line = line.strip().strip("*").strip()
    formulas = _MATHS.match(line)
    if formulas:
        found = [next(filter(None, groups)) for groups in _MATH.findall(formulas[0])]
        return ",".join(found)
    end = _SENTENCE_END.search(line)
    sentence = line[: end.start()] if end else line
    number = _LEADING_NUMBER.match(sentence)
    return number[0] if number else sentence.strip()


def _last_formula(text: str) -> str | None:
    """The last `$...$` that is a formula and that no number follows; of an equation the last side."""
    found = None
    for found in _MATH.finditer(text):  # noqa: B007
        pass
    if found is None or re.search("[0-9]", text[found.end() :]):
        return None
    formula = next(filter(None, found.groups()))
    if not re.search(r"[\\^=]", formula) or re.search(r"(?<![\\A-Za-z])[A-Za-z]{3,}", formula):
        return None  # dollars that are money
    return formula.rpartition("=")[2].strip()


def _last_number(text: str) -> str | None:
    _, number = last_number(text)
    return None if number is None else number.key + ("%" if number.is_percent else "")
