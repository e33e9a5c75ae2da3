"""Rewrites assert statements into calls of the program and an expression over what they return.

The calls are made in the program's box, one by one, with plain data; the expression is evaluated outside, where the
program cannot reach it. What cannot be rewritten is judged in a box of its own (`Sandbox.judge`).
"""

import ast
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lit_posttrain.graders.comparison import holds_object
from lit_posttrain.graders.expressions import FUNCTIONS, Unsupported, check, evaluate, literal


@dataclass(frozen=True)
class Call:
    """One call of the program with plain data."""

    target: str
    arguments: tuple[Any, ...] = ()
    keywords: tuple[tuple[str, Any], ...] = ()


class NeedsJudge(Exception):
    """An answer is no plain data, and the assertion does more with it than compare."""


@dataclass(frozen=True)
class Assertion:
    """Calls, and what must hold of their results.

    `text` is the assertion as it was written, for a judge; `compares` says that results are only compared with `==`.
    """

    calls: tuple[Call, ...]
    condition: ast.expr
    text: str
    compares: bool

    def holds(self, answers: Sequence[Any]) -> bool:
        """Whether the condition is true of what the calls returned.

        Raises:
            NeedsJudge: if one is an object that stayed in the box, and this cannot decide about it.
        """
        if holds_object(answers):
            if not self.compares:
                raise NeedsJudge
            return False
        values = {f" {number}": answer for number, answer in enumerate(answers)}
        try:
            return bool(evaluate(self.condition, values))
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
            RecursionError,
            MemoryError,
        ):
            return False


def parse(text: str) -> ast.Module:
    """The syntax tree of trusted test code, without its warnings.

    Raises:
        SyntaxError: if it is no Python.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text)


def rewritten(text: str, names: Sequence[str]) -> list[Assertion] | None:
    """The assertions that a text consists of, or None where it is more than that.

    Args:
        text: Test code.
        names: What the program is called in it; without any, all functions are the program's that Python lacks.

    Raises:
        SyntaxError: if it is no Python.
    """
    return _assertions(parse(text).body, names)


def rewritten_check(text: str, entry: str) -> list[Assertion] | None:
    """The same for test code that defines `check(candidate)`, as that of HumanEval."""
    functions = [node for node in parse(text).body if not _is_passive(node)]
    if len(functions) != 1 or not isinstance(functions[0], ast.FunctionDef) or functions[0].name != "check":
        return None
    parameters = functions[0].args.args
    return (
        _assertions(functions[0].body, [entry, *[p.arg for p in parameters]])
        if len(parameters) == 1
        else None
    )


def _assertions(body: Sequence[ast.stmt], names: Sequence[str]) -> list[Assertion] | None:
    try:
        return [_assertion(node, names) for node in body if not _is_passive(node)]
    except Unsupported:
        return None


def _is_passive(node: ast.stmt) -> bool:
    """Whether a statement does nothing that matters: an import, a docstring, pass, or metadata."""
    match node:
        case ast.Expr(value=ast.Constant()) | ast.Pass() | ast.Import():
            return True
        case ast.Assign(targets=[ast.Name(id="METADATA")]):
            return True
    return False


def _assertion(node: ast.stmt, names: Sequence[str]) -> Assertion:
    if not isinstance(node, ast.Assert):
        raise Unsupported(type(node).__name__)
    text = ast.unparse(node)
    if len(names) == 2:
        text = f"{names[1]} = {names[0]}\n{text}"  # the parameter of `check`
    calls = _Calls(names)
    condition = calls.visit(node.test)
    results = frozenset(f" {number}" for number in range(len(calls.found)))
    check(condition, results)
    return Assertion(tuple(calls.found), condition, text, _only_compares(condition))


def _only_compares(condition: ast.expr) -> bool:
    if not isinstance(condition, ast.Compare) or not all(isinstance(op, ast.Eq) for op in condition.ops):
        return False
    sides = [condition.left, *condition.comparators]
    return all(
        isinstance(side, ast.Name) or not any(isinstance(n, ast.Name) for n in ast.walk(side))
        for side in sides
    )


class _Calls(ast.NodeTransformer):
    """Puts a name in place of each call of the program, and remembers the call."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names, self.found = names, list[Call]()

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if not self._is_ours(node.func):
            self.generic_visit(node)
            return node
        assert isinstance(node.func, ast.Name)
        if any(keyword.arg is None for keyword in node.keywords):
            raise Unsupported("**")
        keywords = [(keyword.arg or "", literal(keyword.value)) for keyword in node.keywords]
        target = self.names[0] if self.names else node.func.id
        self.found.append(Call(target, tuple(map(literal, node.args)), tuple(keywords)))
        return ast.Name(f" {len(self.found) - 1}", ast.Load())

    def _is_ours(self, function: ast.expr) -> bool:
        if not isinstance(function, ast.Name):
            return False
        return function.id in self.names if self.names else function.id not in FUNCTIONS
