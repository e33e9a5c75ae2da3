"""Finds the answer that a completion states."""

import re

from lit_posttrain.graders.rational import last_number

_BRACE = re.compile(r"\\f?box(?:ed)?\s*\{|\\.|[{}]", re.DOTALL)
_STATED = re.compile(
    r"####|^[ \t*#>]*(?:final[ \t]+)?(?:A|answer)[ \t*]*:|\b(?:answer|result)\b(?:\*\*)?\s*(?:is|:|=)",
    re.IGNORECASE | re.MULTILINE,
)
_SENTENCE_END = re.compile(r"\.(?:\s|$)")
_MATH = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_LEADING_NUMBER = re.compile(
    r"[$€£]?-?[$€£]?[0-9][0-9,]*(?:\.[0-9]+)?(?:/[0-9]+)?(?:\\?%)?(?=\s+[A-Za-z]|\s*[,;(]\s*[A-Za-z])(?!\s*,?\s*(?:or|and)\b)"
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


def stated(text: str) -> str | None:
    """The last stated answer (`#### x`, `A: x`, `The answer is x`), else the last number, else None."""
    last = None
    for last in _STATED.finditer(text):  # noqa: B007
        pass
    if last is not None:
        line = text[last.end() :].lstrip(" \t\n*:").partition("\n")[0]
        if line.strip():
            return _core(line)
    _, number = last_number(text)
    return None if number is None else number.key + ("%" if number.is_percent else "")


def _core(line: str) -> str:
    """The answer in the rest of a line: its formula, or its leading number, or its first sentence."""
    line = line.strip().strip("*").strip()
    formula = _MATH.match(line)
    if formula:
        return next(group for group in formula.groups() if group is not None)
    end = _SENTENCE_END.search(line)
    sentence = line[: end.start()] if end else line
    number = _LEADING_NUMBER.match(sentence)
    return number[0] if number else sentence.strip()
