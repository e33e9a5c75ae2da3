"""Canonical forms of sympy objects: equal texts for equal values, without any answer to compare with.

A constant is its exact rational, or else its first digits; a formula with letters is its values at fixed
points, one for each letter and a few of them; relations and sets are built from these. So equality is that of
texts: reflexive, symmetric and transitive by construction. Two different formulas could agree to 20 digits at
every point only by intent. Imported by path in a worker process, where nothing else of this package is.
"""

import hashlib
from fractions import Fraction
from typing import Any

WORKING_DIGITS = 40
KEPT_DIGITS = 20
POINTS = 4
ZERO = Fraction(1, 10**30)
MAX_DENOMINATOR = 10**6
MAX_BITS = 13_000  # a longer integer has no text in Python's limits


def form(value: Any) -> str | None:
    """The canonical form, None for what has none; any failure of sympy on model text is such a case."""
    try:
        return _form(value)
    except (MemoryError, RecursionError):
        raise
    except Exception:  # sympy raises errors of every kind on formulas nobody would write
        return None


def _form(value: Any) -> str | None:
    from sympy import Expr, MatrixBase, Set, Tuple
    from sympy.core.relational import Relational
    from sympy.logic.boolalg import BooleanFunction

    if isinstance(value, MatrixBase):
        return _joined("matrix(", [_row(value.row(i)) for i in range(value.rows)], ")")
    if isinstance(value, Set):
        return _set(value)
    if isinstance(value, Relational):
        return _relation(value)
    if isinstance(value, BooleanFunction):
        return _set(value.as_set()) if len(value.free_symbols) == 1 else None
    if isinstance(value, Tuple):
        return _joined("(", [_form(part) for part in value.args], ")")
    return _expression(value) if isinstance(value, Expr) else None


def _row(row: Any) -> str | None:
    return _joined("(", [_form(part) for part in row], ")")


def _joined(opening: str, parts: list[str | None], closing: str, ordered: bool = True) -> str | None:
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return opening + ",".join(known if ordered else sorted(known)) + closing


def _set(value: Any) -> str | None:
    from sympy import EmptySet, Interval, Union
    from sympy.sets.sets import FiniteSet

    if isinstance(value, Interval):
        opening, closing = "(" if value.left_open else "[", ")" if value.right_open else "]"
        return _joined(opening, [_form(value.start), _form(value.end)], closing)
    if isinstance(value, FiniteSet) or type(value).__name__ == "FiniteSet":
        return _joined("{", [_form(part) for part in value.args], "}", ordered=False)
    if isinstance(value, Union):
        simple = Union(*value.args)
        if isinstance(simple, Union):
            return _joined("union(", [_set(part) for part in simple.args], ")", ordered=False)
        return _set(simple)
    return "{}" if value is EmptySet else str(value)


def _expression(value: Any) -> str | None:
    from sympy import I, Rational, oo

    if value in (oo, -oo):
        return str(value)
    value = value.doit()
    value = value.xreplace({letter: I for letter in value.free_symbols if letter.name == "i"})
    value = value.xreplace({f: Rational(str(f)) for f in value.atoms() if f.is_Float})
    if value.is_Rational:
        return _rational(Fraction(int(value.p), int(value.q)))
    letters = value.free_symbols
    values = [_value(value, letters, point) for point in range(POINTS if letters else 1)]
    if len(set(values)) == 1:
        return values[0]
    return _joined("f(", list(values), ")")


def _rational(value: Fraction) -> str | None:
    return (
        str(value) if max(value.numerator.bit_length(), value.denominator.bit_length()) < MAX_BITS else None
    )


def _value(expression: Any, letters: Any, point: int) -> str | None:
    found = _number(expression, letters, point)
    if found is None:
        return None
    real, imaginary = (_digits(part) for part in found)
    return real if imaginary == "0" else f"{real}+{imaginary}i"


def _number(expression: Any, letters: Any, point: int) -> tuple[Any, Any] | None:
    """Real and imaginary part at one point, to the working digits."""
    at = {letter: _coordinate(letter.name, point) for letter in letters}
    value = expression.evalf(WORKING_DIGITS, subs=at) if at else expression.evalf(WORKING_DIGITS)
    real, imaginary = value.as_real_imag()
    return (real, imaginary) if real.is_Number and imaginary.is_Number and value.is_finite else None


def _coordinate(name: str, point: int) -> Any:
    """A fixed number for a letter, by its name: between 1/2 and 5/2, at every other point negative."""
    from sympy import Rational

    drawn = int.from_bytes(hashlib.sha256(f"{name} {point}".encode()).digest()[:4], "big")
    return Rational(500 + drawn % 2000, 1009) * (-1) ** point


def _digits(number: Any) -> str:
    """A rational where the digits show one, else the first digits."""
    from sympy import Rational

    exact: Any = Rational(number)
    value = Fraction(int(exact.p), int(exact.q))
    if abs(value) < ZERO:
        return "0"
    near = value.limit_denominator(MAX_DENOMINATOR)
    if abs(near - value) <= ZERO * max(1, abs(value)):
        return str(near)
    return str(number.round(KEPT_DIGITS - 1 - _magnitude(value)).evalf(KEPT_DIGITS))


def _magnitude(value: Fraction) -> int:
    """The power of ten of the first digit, up to one."""
    return len(str(abs(value.numerator))) - len(str(value.denominator))


def _relation(value: Any) -> str | None:
    from sympy import Eq, Ne

    if isinstance(value, Eq):
        return _equation(value)
    letters = value.free_symbols
    left: Any = value.lhs
    if isinstance(value, Ne):
        return _ratios("nonzero(", left - value.rhs, letters, signed=False)
    if len(letters) == 1:
        return _set(value.as_set())
    opening = "positive(" if value.rel_op in ("<", ">") else "nonnegative("
    return _ratios(opening, value.gts - value.lts, letters, signed=True)


def _equation(value: Any) -> str | None:
    """Of an equation that gives a letter a value, the value; of another, its zeros' function up to a factor."""
    from sympy import Poly
    from sympy.core.function import AppliedUndef

    for side, other in ((value.lhs, value.rhs), (value.rhs, value.lhs)):
        is_name = getattr(side, "is_Symbol", False) or isinstance(side, AppliedUndef)
        if is_name and not (side.is_Symbol and other.has(side)):
            return _form(other)
    difference, letters = value.lhs - value.rhs, value.free_symbols
    if len(letters) == 1 and difference.is_polynomial(*letters):
        polynomial = Poly(difference, *letters)
        if polynomial.degree() == 1:
            slope, constant = polynomial.all_coeffs()
            return _form(-constant / slope)
    return _ratios("zero(", difference, letters, signed=False)


def _ratios(opening: str, expression: Any, letters: Any, *, signed: bool) -> str | None:
    """The form of a relation to zero, which a factor (a positive one if signed) does not change."""
    from sympy import Integer

    numbers = [_number(expression, letters, point) for point in range(POINTS)]
    first, *others = known = [number for number in numbers if number is not None] or [(0, 0)]
    if len(known) < POINTS or first[1] != 0 or abs(first[0]) < ZERO:
        return None
    sign = ("-" if first[0] < 0 else "+") if signed else ""
    ratios = [_digits(real / first[0]) for real, imaginary in others if imaginary == Integer(0)]
    return f"{opening}{sign}{','.join(ratios)})" if len(ratios) == len(others) else None
