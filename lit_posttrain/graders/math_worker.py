"""The task of a math worker: whether two expressions are equal, by math-verify.

Time limits of math-verify are off: they need signals, and the pool's limits hold whatever the process does.
All text was limited by the parent; nothing here evaluates it as Python.
"""

import logging
import resource
from collections.abc import Callable
from functools import lru_cache
from typing import Any

MEMORY_BYTES = 1 << 30

Stage = Callable[[str], None]


def prepare(options: dict[str, Any]) -> Callable[[dict[str, str], Stage], str]:
    """Loads math-verify and gives the function from `{"gold", "answer"}` to the name of a verdict."""
    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)
    tolerance = options["tolerance"]
    config = [LatexExtractionConfig()]

    def parsed(text: str) -> Any:
        found = parse(f"${text}$", config, fallback_mode="no_fallback", parsing_timeout=None)  # type: ignore[arg-type]
        return found[0] if found else None

    parsed_gold = lru_cache(maxsize=1024)(parsed)

    def answer(request: dict[str, str], stage: Stage) -> str:
        gold = parsed_gold(request["gold"])
        if gold is None or not _is_defined(gold):
            return "gold_unparseable"
        stage("answer")
        stated = parsed(request["answer"])
        if stated is None:
            return "malformed"
        close = _numerically_equal(gold, stated, tolerance)
        if close is None:
            close = verify(gold, _exact(gold, stated), timeout_seconds=None)
        return "correct" if close else "incorrect"

    verify(parsed("1+x"), parsed(r"\frac{2+2x}{2}"), timeout_seconds=None)  # the first use is slow
    _limit_memory()
    return answer


def _is_defined(gold: Any) -> bool:
    from sympy import nan, zoo

    return not hasattr(gold, "has") or not gold.has(nan, zoo)


def _exact(gold: Any, stated: Any) -> Any:
    """Reads decimals of the answer as exact rationals where gold has none: 3.1415926535 is not pi."""
    from sympy import Float, Rational

    if not hasattr(stated, "atoms") or not hasattr(gold, "atoms") or gold.atoms(Float):
        return stated
    return stated.xreplace({number: Rational(str(number)) for number in stated.atoms(Float)})


def _numerically_equal(gold: Any, stated: Any, tolerance: float) -> bool | None:
    """Decides for a decimal gold by relative error; None where gold is anything else."""
    from sympy import Expr, Float

    if not isinstance(gold, Float) or not isinstance(stated, Expr) or stated.free_symbols:
        return None
    value = stated.evalf(30)
    if not value.is_comparable:
        return None
    return bool(abs(value - gold) <= tolerance * abs(gold))


def _limit_memory() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
