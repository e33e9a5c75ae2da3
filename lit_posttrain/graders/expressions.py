"""Evaluates the expressions of assertions on plain data: a small, bounded part of Python, without `eval`."""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from lit_posttrain.graders.sandbox.plain import distinct_enough


def _gathering(build: Callable[..., Any]) -> Callable[..., Any]:
    return lambda items=(): build(distinct_enough(list(items)))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (abs, all, any, bool, float, int, len, list, max, min, round, sorted, str, sum, tuple)
} | {"set": _gathering(set), "frozenset": _gathering(frozenset)}
MATH = frozenset(["isclose", "sqrt", "floor", "ceil", "fabs", "pi", "e", "inf", "isnan", "isinf"])
TYPES: dict[str, Any] = {f.__name__: f for f in (int, float, str, bool, list, tuple, dict, set, frozenset)}
ORDERS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
}
ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
SIGNS: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.Not: operator.not_,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
MAX_BITS = 4096
MAX_EXPONENT = 64


class Unsupported(Exception):
    """An expression that has no place here; it is judged elsewhere."""


def check(node: ast.expr, names: frozenset[str]) -> None:
    """
    Raises:
        Unsupported: if `evaluate` does not know a part of the expression; `names` are the values it will be given.
    """
    kind = type(node)
    if kind not in EVALUATORS or (kind in CHECKS and not CHECKS[kind](node, names)):
        raise Unsupported(ast.dump(node)[:100])
    for child in _operands(node):
        check(child, names)


def evaluate(node: ast.expr, values: Mapping[str, Any]) -> Any:
    """The value of an expression that `check` let through.

    Raises:
        Exception: whatever Python raises for it, such as TypeError for `None < 3`; ValueError for numbers that
            would take too long.
    """
    return EVALUATORS[type(node)](node, values)


def literal(node: ast.expr) -> Any:
    """The value of an expression without names.

    Raises:
        Unsupported: if it has none.
    """
    check(node, frozenset())
    try:
        return evaluate(node, {})
    except Exception as error:
        raise Unsupported(f"{type(error).__name__}: {error}") from None


def _operands(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.Call):
        return [*node.args, *[keyword.value for keyword in node.keywords]]
    if isinstance(node, ast.Attribute):
        return []
    return [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]


def _is_comparison(node: ast.Compare, names: frozenset[str]) -> bool:
    """Identity means something only for None, True and False."""
    singles = [
        isinstance(n, ast.Constant) and (n.value is None or isinstance(n.value, bool))
        for n in node.comparators
    ]
    return all(
        single or not isinstance(order, ast.Is | ast.IsNot)
        for order, single in zip(node.ops, singles, strict=True)
    )


def _is_known_function(node: ast.Call, names: frozenset[str]) -> bool:
    is_plain = not any(isinstance(argument, ast.Starred) for argument in node.args)
    is_named = all(k.arg in ("rel_tol", "abs_tol", "reverse", "ndigits", "default") for k in node.keywords)
    function = node.func
    is_known = (isinstance(function, ast.Name) and function.id in FUNCTIONS) or _is_math(function)
    return is_plain and is_named and is_known


def _is_math(node: ast.expr) -> bool:
    match node:
        case ast.Attribute(value=ast.Name(id="math"), attr=name):
            return name in MATH
    return False


CHECKS: dict[type[ast.expr], Callable[[Any, frozenset[str]], bool]] = {
    ast.Name: lambda node, names: node.id in names or node.id in TYPES,
    ast.Call: _is_known_function,
    ast.Attribute: lambda node, names: _is_math(node),
    ast.Compare: _is_comparison,
    ast.BinOp: lambda node, names: type(node.op) in ARITHMETIC,
    ast.UnaryOp: lambda node, names: type(node.op) in SIGNS,
    ast.BoolOp: lambda node, names: isinstance(node.op, ast.And),
    ast.Dict: lambda node, names: None not in node.keys,
}


def _name(node: ast.Name, values: Mapping[str, Any]) -> Any:
    return values[node.id] if node.id in values else TYPES[node.id]


def _compare(node: ast.Compare, values: Mapping[str, Any]) -> Any:
    left, outcome = evaluate(node.left, values), True
    for order, comparator in zip(node.ops, node.comparators, strict=True):
        right = evaluate(comparator, values)
        outcome = ORDERS[type(order)](left, right)
        if not outcome:
            return outcome
        left = right
    return outcome


def _binary(node: ast.BinOp, values: Mapping[str, Any]) -> Any:
    left, right = evaluate(node.left, values), evaluate(node.right, values)
    kinds = (type(left), type(right))
    sequences = isinstance(node.op, ast.Add) and kinds[0] is kinds[1] and kinds[0] in (str, list, tuple)
    if not sequences and not (_is_small(left) and _is_small(right)):
        raise ValueError("no numbers of ordinary size")
    if isinstance(node.op, ast.Pow) and abs(right) > MAX_EXPONENT:
        raise ValueError("no exponent of ordinary size")
    return ARITHMETIC[type(node.op)](left, right)


def _is_small(value: Any) -> bool:
    return isinstance(value, float | complex) or (isinstance(value, int) and value.bit_length() <= MAX_BITS)


def _call(node: ast.Call, values: Mapping[str, Any]) -> Any:
    arguments = [evaluate(argument, values) for argument in node.args]
    keywords = {k.arg: evaluate(k.value, values) for k in node.keywords if k.arg is not None}
    if isinstance(node.func, ast.Attribute):
        return getattr(math, node.func.attr)(*arguments, **keywords)
    assert isinstance(node.func, ast.Name)
    return FUNCTIONS[node.func.id](*arguments, **keywords)


def _dict(node: ast.Dict, values: Mapping[str, Any]) -> Any:
    pairs = zip(node.keys, node.values, strict=True)
    return {evaluate(key, values): evaluate(value, values) for key, value in pairs if key is not None}


def _series(build: Callable[..., Any]) -> Callable[[Any, Mapping[str, Any]], Any]:
    return lambda node, values: build(evaluate(item, values) for item in node.elts)


EVALUATORS: dict[type[ast.expr], Callable[[Any, Mapping[str, Any]], Any]] = {
    ast.Constant: lambda node, values: node.value,
    ast.Name: _name,
    ast.List: _series(list),
    ast.Tuple: _series(tuple),
    ast.Set: _series(set),
    ast.Dict: _dict,
    ast.UnaryOp: lambda node, values: SIGNS[type(node.op)](evaluate(node.operand, values)),
    ast.BinOp: _binary,
    ast.BoolOp: lambda node, values: all(evaluate(value, values) for value in node.values),
    ast.Compare: _compare,
    ast.Subscript: lambda node, values: evaluate(node.value, values)[evaluate(node.slice, values)],
    ast.Call: _call,
    ast.Attribute: lambda node, values: getattr(math, node.attr),
}
