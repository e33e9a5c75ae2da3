"""Countdown: reach a target with the given numbers, each used exactly once."""

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lit_posttrain.batches import Completion, Grade, Problem, Verdict
from lit_posttrain.graders.single import SingleGrader, bad_reference, decided, failed

MAX_CHARACTERS = 256
MAX_DEPTH = 20

_TAGGED = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_TOKEN = re.compile(r"\s*(?:([0-9]{1,12})|([-+*/()]))")
_SAME_SIGN = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-"})  # noqa: RUF001


class NotAnExpression(ValueError):
    """The text is no arithmetic expression of numbers, + - * / and parentheses."""


@dataclass(frozen=True)
class Countdown(SingleGrader):
    """Correct when an arithmetic expression uses each given number exactly once and equals the target.

    The reference is `{"numbers": [...], "target": n}` of integers. The expression stands in the last
    `<answer>...</answer>`, else in the last line that is not blank; `= target` at its end is ignored.
    It is read by a parser of its own with exact fractions, never evaluated by Python.

    Args:
        format_reward: Reward of a well-formed expression that uses wrong numbers or misses the target.
    """

    format_reward: float = 0.0

    def grade_one(self, problem: Problem, completion: Completion) -> Grade:
        """The answer key is the expression without blanks."""
        task = _task(problem.reference)
        if task is None:
            return bad_reference(problem.reference, 'of the form {"numbers": [integers], "target": integer}')
        numbers, target = task
        stated = _stated(completion.text, target)
        if not stated:
            return failed(Verdict.NO_ANSWER)
        try:
            value, used = evaluate(stated)
        except NotAnExpression as error:
            return failed(Verdict.MALFORMED, str(error))
        key = re.sub(r"\s+", "", stated)
        if Counter(used) != Counter(numbers):
            return failed(Verdict.INCORRECT, f"used {sorted(used)}", self.format_reward, key)
        if value != target:
            return failed(Verdict.INCORRECT, f"gives {value}", self.format_reward, key)
        return decided(True, key)


def evaluate(text: str) -> tuple[Fraction | None, list[int]]:
    """The exact value of an arithmetic expression (None where it divides by zero) and the numbers it uses.

    Raises:
        NotAnExpression: for anything but numbers, + - * / and parentheses, or beyond the limits of size.
    """
    if len(text) > MAX_CHARACTERS:
        raise NotAnExpression(f"longer than {MAX_CHARACTERS} characters")
    parser = _Parser(_tokens(text))
    value = parser.sum(0)
    if parser.peek():
        raise NotAnExpression(f"unexpected {parser.peek()!r}")
    return value, parser.used


class _Parser:
    """Recursive descent: sum of products of numbers and parentheses."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.position, self.used = tokens, 0, list[int]()

    def peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self) -> str:
        self.position += 1
        return self.tokens[self.position - 1]

    def sum(self, depth: int) -> Fraction | None:
        value = self.product(depth)
        while self.peek() in ("+", "-"):
            value = _apply(self.take(), value, self.product(depth))
        return value

    def product(self, depth: int) -> Fraction | None:
        value = self.atom(depth)
        while self.peek() in ("*", "/"):
            value = _apply(self.take(), value, self.atom(depth))
        return value

    def atom(self, depth: int) -> Fraction | None:
        token = self.peek()
        if token.isdigit():
            self.used.append(int(self.take()))
            return Fraction(self.used[-1])
        if token != "(" or depth >= MAX_DEPTH:
            reason = f"nested deeper than {MAX_DEPTH}" if token == "(" else f"unexpected {token or 'end'!r}"
            raise NotAnExpression(reason)
        self.take()
        value = self.sum(depth + 1)
        if self.peek() != ")":
            raise NotAnExpression("a parenthesis is not closed")
        self.take()
        return value


def _apply(operator: str, left: Fraction | None, right: Fraction | None) -> Fraction | None:
    if left is None or right is None or (operator == "/" and right == 0):
        return None
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    return left * right if operator == "*" else left / right


def _tokens(text: str) -> list[str]:
    text, tokens, position = text.translate(_SAME_SIGN).strip(), [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise NotAnExpression(f"unexpected {text[position : position + 8]!r}")
        tokens.append(match[1] or match[2])
        position = match.end()
    return tokens


def _stated(text: str, target: int) -> str:
    tagged = _TAGGED.findall(text)
    lines = [line for line in (tagged[-1] if tagged else text).splitlines() if line.strip()]
    stated = (lines[-1] if lines else "").strip()
    left, equals, right = stated.rpartition("=")
    return left.strip() if equals and right.strip() == str(target) else stated


def _task(reference: Any) -> tuple[list[int], int] | None:
    if not isinstance(reference, dict):
        return None
    numbers, target = reference.get("numbers"), reference.get("target")
    if not isinstance(numbers, list | tuple) or not numbers:
        return None
    if type(target) is not int or not all(type(number) is int for number in numbers):
        return None
    return list(numbers), target
