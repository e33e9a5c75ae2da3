"""Brings an answer's text to one notation, and says what must not be handed to a parser."""

import re

from lit_posttrain.graders.rational import MAX_DIGITS, Number, read_number

MAX_CHARACTERS = 512
MAX_NESTING = 12
MAX_LITERAL = 10_000
MAX_TOWER = 2

_SYMBOLS = str.maketrans(
    {"−": "-", "–": "-", "×": "*", "·": "*", "÷": "/", "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt "}  # noqa: RUF001
    | {"≤": r"\le ", "≥": r"\ge ", "∪": r"\cup ", "~": " ", "\u00a0": " "}  # noqa: RUF001
)
_REWRITES = [
    (re.compile(pattern), new)
    for pattern, new in [
        (r"\\(?:displaystyle|left|right|bigl?|bigr?|Bigl?|Bigr?)(?![A-Za-z])|\\!", ""),
        (r"\^ *\{?\\circ\}? *(?:\\text\{ *)?[CF](?: *\})?$", ""),
        (r"(?<=[0-9}]) *(?:\^ *\{? *\\circ *\}?|\\degree|°)$", r"\\text{degree}"),
        (r"(?<!\\)\\[,;: ]|\\q?quad(?![A-Za-z])", " "),
        (r" *(?:\\text\{ *)?\bpercent(?: *\})?$", "%"),
        (r"\\varnothing(?![A-Za-z])", r"\\emptyset"),
        (r"\\mathbb *\{?R\}?(?! *\^)", r"(-\\infty,\\infty)"),
        (r"°|\\\$|\{\\circ\}|\^\{\\circ\}|\^\\circ(?![A-Za-z])|\\degree(?![A-Za-z])", ""),
        (r"\\%", "%"),
        (r"\{,\}", ","),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\frac *([0-9]) *([0-9])", r"\\frac{\1}{\2}"),
        (r"\\(?:textbf|textit|mathrm|mathbf|mbox|textrm|operatorname)(?=\{)", r"\\text"),
        (r"\\text\{ *(and|or) *\}", r" \1 "),
        (r"\*\*", "^"),
        (r"(?<!\\)\bsqrt *\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<!\\)\b(pi|infinity|sin|cos|tan|log|ln|exp)\b", r"\\\1 "),
        (r"\\infinity", r"\\infty"),
        (r"\^(-?[0-9]{2,})", r"^{\1}"),
        (r"\^\(([^()]*)\)", r"^{\1}"),
        (r" *(?:\*|\\cdot(?![A-Za-z])|\\times(?![A-Za-z])) *", r" \\cdot "),
        (r"\s+", " "),
    ]
]
_WRAPPERS = [
    re.compile(p, re.DOTALL)
    for p in (r"\$+([^$]*)\$+", r"\\\((.*)\\\)", r"\\\[(.*)\\\]", r"\\f?box(?:ed)? *\{(.*)\}")
]
_LITERAL = re.compile(r"\^ *\{? *-? *([0-9]+)|([0-9]+) *\}? *!")
_FORBIDDEN = re.compile(r"['\"`;@#?\x00-\x08\x0e-\x1f]|__|\.[A-Za-z_]|\.\\?_|lambda(?![A-Za-z])|!!")
_FRACTION = re.compile(r"([0-9]*) *\\frac *\{ *(-?[0-9]+) *\} *\{ *([0-9]+) *\}")
_REPEATING = re.compile(r"(?<![0-9.])([0-9]{1,20})\.([0-9]{0,20})\\overline *\{ *([0-9]{1,20}) *\}")
_POWER_OF_TEN = re.compile(r" \\cdot 10\^\{? *(-?[0-9]{1,3}) *\}?")


def simplify(text: str) -> str:
    """One notation for the same answer: no wrapping dollars, spacing commands, degree signs or bold type."""
    text = text.translate(_SYMBOLS).strip().strip("*").strip()
    for _ in range(3):
        for wrapper in _WRAPPERS:
            match = wrapper.fullmatch(text)
            if match and not (wrapper is _WRAPPERS[-1] and fault(match[1])):
                text = match[1].strip()
    for pattern, new in _REWRITES:
        text = pattern.sub(new, text)
    text = _REPEATING.sub(_as_fraction, text)
    return re.sub(r"[.,:]$", "", text.strip()).strip()


def _as_fraction(match: re.Match[str]) -> str:
    """A repeating decimal such as `0.1\\overline{6}` as a fraction: nines under the period, then zeros."""
    start, period = match[1] + match[2], match[3]
    over = int(start + period) - int(start or "0")
    return rf"\frac{{{over}}}{{{'9' * len(period)}{'0' * len(match[2])}}}"


def fault(text: str) -> str:
    """Why a text must not be handed to a parser, or nothing."""
    if len(text) > MAX_CHARACTERS:
        return f"longer than {MAX_CHARACTERS} characters"
    forbidden = _FORBIDDEN.search(text)
    if forbidden:
        return f"holds {forbidden[0]!r}"
    if re.search(rf"[0-9]{{{MAX_DIGITS + 1}}}", text):
        return f"more than {MAX_DIGITS} digits in a row"
    if any(int(a or b) > MAX_LITERAL for a, b in _LITERAL.findall(text)):
        return f"an exponent or factorial above {MAX_LITERAL}"
    return _shape_fault(text)


def _shape_fault(text: str) -> str:
    depth, tower = 0, 0
    for char in text:
        if char in "({[":
            depth += 1
        elif char in ")}]":
            depth, tower = depth - 1, 0
        elif char == "^":
            tower += 1
        elif char in "+-*/ =,":
            tower = 0
        if depth > MAX_NESTING:
            return f"nested deeper than {MAX_NESTING}"
        if tower > MAX_TOWER:
            return f"more than {MAX_TOWER} powers upon each other"
    return ""


def as_number(text: str) -> Number | None:
    r"""The number that a simplified text is: plain, `12 cm`, `1\frac{1}{2}` or `3 \cdot 10^{8}`."""
    plain = _FRACTION.sub(lambda found: f"{found[1]} {found[2]}/{found[3]}".strip(), split_unit(text)[0])
    return read_number(_POWER_OF_TEN.sub(r"e\1", plain))


_UNIT_NAMES = {
    "millimeter": "mm millimetre", "centimeter": "cm centimetre", "meter": "m metre", "mile": "mi",
    "kilometer": "km kilometre", "inch": "in inche", "foot": "ft feet", "yard": "yd", "second": "s sec",
    "minute": "min", "hour": "h hr", "day": "d", "gram": "g", "kilogram": "kg", "pound": "lb",
    "liter": "l litre", "milliliter": "ml", "dollar": "usd", "cent": "", "degree": "deg", "radian": "rad",
}  # fmt: skip
UNITS = {alias: name for name, aliases in _UNIT_NAMES.items() for alias in [name, *aliases.split()]}

_NO_UNIT = r"(?!(?:and|or|not|to|pi|e|i)\b)"
_UNIT = re.compile(
    r"(.*[0-9}%.]) *\\text\{([^{}]*)\}(?:\^\{?([23])\}?)?|"
    rf"(.*[0-9}}%.]) +{_NO_UNIT}([A-Za-z]{{2,}}(?: {_NO_UNIT}[A-Za-z]+){{0,2}}|[mgshl])(?:\^\{{?([23])\}}?)?"
)


def split_unit(text: str) -> tuple[str, str]:
    """The text without a trailing unit, and the unit in one spelling (empty if there is none we know)."""
    match = _UNIT.fullmatch(text)
    if match is None:
        return text, ""
    body, words, power = (
        (match[1], match[2], match[3]) if match[1] is not None else (match[4], match[5], match[6])
    )
    word = words.strip().lower().rstrip(".")
    name = UNITS.get(word) or UNITS.get(word.removesuffix("s"), "")
    return body.strip(), name + (power or "") if name else ""


_NAME = re.compile(r"([A-Za-z](?:_\{?[0-9a-z]\}?)?) *(?:=|\\in(?![A-Za-z])) *([^=<>]+)")


def split_name(text: str) -> tuple[str, str]:
    """The name and the value of an answer such as `x = 5` or `x \\in [0, 1]`; no name where there is none."""
    match = _NAME.fullmatch(text)
    return (match[1], match[2].strip()) if match else ("", text)
