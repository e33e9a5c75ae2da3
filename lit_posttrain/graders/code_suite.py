"""The tests of a programming problem, read from its reference and checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_posttrain.errors import InputError
from lit_posttrain.graders.assertions import Assertion, Call, parse, rewritten, rewritten_check
from lit_posttrain.graders.comparison import alike, near, same
from lit_posttrain.graders.sandbox.judge import PROGRAM
from lit_posttrain.graders.sandbox.plain import encode

MAX_TEST_BYTES = 1 << 26


@dataclass(frozen=True)
class Example:
    """One call and the value that it must return; `compare` is `strict` or `python`."""

    calls: tuple[Call]
    expected: Any
    compare: str = "strict"
    tolerance: float = 0.0

    def holds(self, answers: Sequence[Any]) -> bool:
        """Whether the answer is the expected value."""
        if self.compare == "python":
            return alike(self.expected, answers[0])
        return (
            near(self.expected, answers[0], self.tolerance)
            if self.tolerance
            else same(self.expected, answers[0])
        )


@dataclass(frozen=True)
class Script:
    """An input and the output that it must give."""

    stdin: bytes
    stdout: bytes
    trims: bool


@dataclass(frozen=True)
class Judged:
    """Test code that decides by itself, in a box of its own."""

    text: str


Test = Example | Assertion | Script | Judged


@dataclass(frozen=True)
class Suite:
    """The tests of one problem.

    `hidden` decide on the reward, `public` are those that the prompt may show. `prelude` is trusted code before
    each judged text, `entry` the name that a program must define, `prompt` what it may continue.
    """

    hidden: tuple[Test, ...]
    public: tuple[Test, ...] = ()
    entry: str | None = None
    prelude: str = ""
    prompt: str | None = None
    texts: tuple[str, ...] = ()


def suite_of(reference: Any) -> Suite:
    """The tests that a reference states.

    A reference is one of these, each with an optional `public` list beside `tests`, of the same form:

    - `{"kind": "function", "entry": name, "tests": [{"args": [...], "kwargs": {...}, "expected": value}]}`, values
      as JSON has them and compared type by type; `"compare": "python"` has `1 == 1.0 == True`, and
      `"tolerance": 1e-6` lets floats differ.
    - `{"kind": "stdin", "tests": [{"stdin": text, "stdout": text}], "trim": true}`.
    - `{"kind": "asserts", "setup": code, "tests": ["assert ...", ...], "entry": name}`; setup and entry may lack.
    - `{"kind": "check", "prompt": code, "tests": "def check(candidate): ...", "entry": name}`.

    Raises:
        InputError: if it is none of them, with the reason.
    """
    kind = reference.get("kind") if isinstance(reference, Mapping) else None
    if kind not in READERS:
        raise InputError(f"a reference of tests has a kind, one of {', '.join(READERS)}; got {kind!r}")
    try:
        suite = READERS[kind](reference)
    except (KeyError, TypeError, SyntaxError, ValueError, RecursionError) as error:
        raise InputError(f"the {kind} tests cannot be used: {type(error).__name__}: {error}") from None
    if not suite.hidden:
        raise InputError(f"the {kind} reference has no tests; give one or more")
    return suite


def _function(reference: Mapping[str, Any]) -> Suite:
    entry, compare = _text(reference, "entry"), reference.get("compare", "strict")
    tolerance = reference.get("tolerance", 0.0)
    if compare not in ("strict", "python") or not isinstance(tolerance, int | float) or tolerance < 0:
        raise ValueError(f"compare={compare!r} is strict or python, tolerance={tolerance!r} a number from 0")

    def read(test: Mapping[str, Any]) -> Example:
        arguments, keywords = test.get("args", []), test.get("kwargs", {})
        if not isinstance(arguments, list) or not isinstance(keywords, Mapping):
            raise TypeError("args is a list and kwargs an object")
        encode([[arguments, dict(keywords), test["expected"]]], MAX_TEST_BYTES, _refuse)
        call = Call(entry, tuple(arguments), tuple(keywords.items()))
        return Example((call,), test["expected"], compare, float(tolerance))

    return Suite(*_both(reference, read), entry=entry)


def _stdin(reference: Mapping[str, Any]) -> Suite:
    trims = reference.get("trim", True)

    def read(test: Mapping[str, Any]) -> Script:
        return Script(_text(test, "stdin", "").encode(), _text(test, "stdout").encode(), bool(trims))

    return Suite(*_both(reference, read))


def _asserts(reference: Mapping[str, Any]) -> Suite:
    setup, entry = _text(reference, "setup", ""), reference.get("entry")
    prelude = f"{setup}\n{_binding(entry)}"
    only_imports = rewritten(setup, ["-"]) == []

    def read(test: str) -> list[Assertion] | list[Judged]:
        found = rewritten(test, [entry] if entry else []) if only_imports else None
        return found or [Judged(test)]

    hidden, public = _both(reference, read)
    flat = [tuple(test for tests in part for test in tests) for part in (hidden, public)]
    return Suite(flat[0], flat[1], entry, prelude, texts=(setup, *reference["tests"]))


def _check(reference: Mapping[str, Any]) -> Suite:
    prompt, tests, entry = (
        _text(reference, "prompt", ""),
        _text(reference, "tests"),
        _text(reference, "entry"),
    )
    parse(prompt)
    found = rewritten_check(tests, entry)
    judged = Judged(f"{tests}\ncheck({entry})")
    return Suite(
        tuple(found) if found else (judged,),
        (),
        entry,
        f"{prompt}\n{_binding(entry)}",
        prompt,
        (judged.text,),
    )


def _binding(entry: str | None) -> str:
    """Code that makes the program's entry known, also where it has the name of a builtin or stands in a prompt."""
    if entry is None:
        return ""
    if not isinstance(entry, str) or not entry.isidentifier():
        raise ValueError(f"the entry {entry!r} is no name")
    return f"{entry} = {PROGRAM}.{entry}\n"


def _both(reference: Mapping[str, Any], read: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    parts = [reference["tests"], reference.get("public") or []]
    if not all(isinstance(part, list) for part in parts):
        raise TypeError("tests and public are lists")
    hidden, public = (tuple(map(read, part)) for part in parts)
    return hidden, public


def _text(reference: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = reference[name] if default is None else reference.get(name) or default
    if not isinstance(value, str) or (default is None and name == "entry" and not value):
        raise TypeError(f"{name} is a text; got {type(value).__name__}")
    value.encode()  # tests that are no Unicode text are of no use
    return value


def _refuse(value: Any) -> Any:
    raise TypeError(f"a {type(value).__name__} is no plain data")


READERS = {"function": _function, "stdin": _stdin, "asserts": _asserts, "check": _check}
