"""Texts that graders of mathematical answers are tried on: judged pairs, hanging ones, injections, noise."""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent

HANGS = [
    "9^{9^{9^9}}",
    "10000000!",
    "9999!^{9999!}",
    "2^{10^{10}}",
    "2^{9999^{99}}",
    "9999^{9999^{99}}",
    r"\binom{10^7}{5000000}",
    r"\binom{9999999}{4999999}",
    r"\sum_{n=1}^{100000000} \frac{1}{n^2}",
    r"\sum_{n=1}^{9999} \sum_{k=1}^{9999} \frac{1}{n^k+k}",
    r"\prod_{n=1}^{99999999} (1+\frac{1}{n^3})",
    r"\int_0^1 \int_0^1 \frac{\sin(xy)^x}{x+y} dx dy",
    r"\int e^{x^{x}} \sin(x^{x}) dx",
    r"\lim_{n\to\infty} \frac{n!}{n^{n^n}}",
    "(" * 300 + "1" + ")" * 300,
    "(" * 12 + "1+x" + ")" * 12,
    "{" * 11 + "(1+x)^{99}" + "}" * 11,
    "(x+y+z+w)^{999}",
    "9" * 100_000,
    "+".join(f"x^{{{i}}}" for i in range(400)),
    "+".join(f"x^{i}" for i in range(80)),
    r"\sqrt{" * 12 + "2+x" + "}" * 12,
    r"\frac{1}{1+" * 11 + "x" + "}" * 11,
    r"\frac{" * 200,
]
"""Formulas to box that would keep a parser or an algebra system busy for long."""

INJECTIONS = [
    r"[open('{marker}','w').close(),\pi]",
    "open('{marker}','w').close()",
    "__import__('os').system('touch {marker}')",
    'eval("open(1)")',
    "().__class__.__bases__[0].__subclasses__()",
    "(lambda: open(chr(47)))()",
    r"\text{{__import__('os').system('touch {marker}')}}",
    "exec(open)",
    "x.subs(1)",
    "f'{{open}}'",
    "open(chr(97),chr(119))",
    r"\operatorname{{open}}(a, w)",
    "import os; os.system('touch {marker}')",
    "getattr(x, y)(z)",
    "(yield)",
]
"""Answers that would run code where they are evaluated as Python; `{marker}` is a file they would make."""

_TOKENS = [
    *"0123456789+-*/^_{}()[]\\|.,!=<> abxyzeiA\"'$%\n\x00\ud800\u0663\u221a\u03c0\u00d7",
    *(
        r"\frac",
        r"\sqrt",
        r"\boxed{",
        r"\text{",
        r"\{",
        r"\}",
        r"\pi",
        r"\infty",
        r"\cup",
        r"\pm",
        r"\le",
        r"\sum",
    ),
    *(
        r"\int",
        r"\log_",
        r"\begin{pmatrix}",
        r"\end{pmatrix}",
        r"\\",
        "&",
        r"\binom",
        r"\in",
        "__import__('os')",
        "open(",
    ),
]


@dataclass(frozen=True)
class Case:
    """A gold answer, a completion, and whether that is right; `answer` is what the completion was made from."""

    file: str
    category: str
    gold: str
    answer: str
    text: str
    is_right: bool


def read(file: str) -> Iterator[Case]:
    """The cases of one of the files beside this one; their format is said there.

    Raises:
        ValueError: for a line that is none of these.
    """
    category, is_boxed = "", True
    for line in (HERE / file).read_text(encoding="utf-8").splitlines():
        title = re.fullmatch(r"# (.+) \((boxed|text)\)", line)
        case = re.fullmatch(r"([+-]) (.+?) ;; (.+)", line)
        if title:
            category, is_boxed = title[1], title[2] == "boxed"
        elif case:
            text = rf"\boxed{{{case[3]}}}" if is_boxed else case[3]
            yield Case(file, category, case[2], case[3], text, case[1] == "+")
        elif category and line:
            raise ValueError(f"{file}: {line!r} is no case")


def noise(count: int, seed: int = 0) -> Iterator[str]:
    """Completions of random characters and commands, most of them boxed."""
    draw = random.Random(seed)
    for _ in range(count):
        inside = "".join(draw.choices(_TOKENS, k=draw.randrange(1, 40)))
        yield draw.choice([rf"\boxed{{{inside}}}", rf"\boxed{{{inside}}}", f"The answer is {inside}", inside])
