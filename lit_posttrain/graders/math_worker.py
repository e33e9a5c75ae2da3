"""The task of a math worker: comparisons, canonical forms and second opinions, by math-verify.

Time limits of math-verify are off: they need signals, and the pool's limits hold whatever the process does.
All text was limited by the parent; nothing here evaluates it as Python. What was loaded here is used by forked
children, which are cheap to replace; an audit hook in them refuses what only executed text would do.
"""

import logging
import runpy
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

MEMORY_BYTES = 160 << 20
"""Private memory, as RLIMIT_DATA counts it; the loaded libraries take 54 MiB of it."""
PROBE = "7"
WARM_UP = (
    "1+x", r"\frac{2+2x}{2}", r"(-\infty,\sqrt{2}]\cup(3,4)", "1<x<2", "x^2>2", r"\{1,x\}", "2x+3y=6", r"e^{i\pi}+i",
    r"\begin{pmatrix}1\\x\end{pmatrix}", r"\int_0^1 x dx", r"\sum_{k=1}^{3} k", r"\binom{x}{2}", r"\sin^2 x+\log_2 x",
)  # fmt: skip
"""Formulas of many kinds: their first use loads modules, which children then find loaded."""
Stage = Callable[[str], None]
Request = dict[str, str]
Form = Callable[[Any], str | None]


def prepare(options: dict[str, Any]) -> Callable[[Request, Stage], Any]:
    """Loads math-verify and gives the function from a request to `{"reply": ...}` or `{"signal": number}`.

    A request names its `task`: `compare` (`gold`, `answer`) is replied to with the name of a verdict, `form`
    (`answer`) with a canonical form or None, `opinion` (`gold`, `text`) with whether math-verify on its own
    finds the text right, `audit` with the acts that were refused. Text that takes more memory than there is
    gets `memory_limit`.
    """
    logging.disable(logging.CRITICAL)
    parsed, form = _parser(), _sibling("symbolic_form.py")["form"]
    tasks = {
        "compare": _comparison(parsed, form, options["tolerance"]),
        "form": _form(parsed, form),
        "opinion": _opinion,
    }

    def answer(request: Request, stage: Stage) -> Any:
        try:
            return tasks[request["task"]](request, stage)
        except (MemoryError, RecursionError):
            return "memory_limit"

    for text in WARM_UP:
        answer({"task": "compare", "gold": "1+x", "answer": text}, lambda name: None)
        answer({"task": "form", "answer": text}, lambda name: None)
    child = _sibling("forked_task.py")["ForkedTask"](answer, options["deadline_s"], MEMORY_BYTES)
    return lambda request, stage: (
        {"reply": child.refused} if request["task"] == "audit" else child(request, stage)
    )


def _sibling(file: str) -> dict[str, Any]:
    """The names of a file beside this one, which is no package where this runs."""
    return runpy.run_path(str(Path(__file__).with_name(file)))


def _parser() -> Callable[[str], Any]:
    """The function from a formula to its sympy object, None if it cannot be read; the last ones are kept."""
    from math_verify import LatexExtractionConfig, parse

    config = [LatexExtractionConfig()]

    @lru_cache(maxsize=1024)
    def parsed(text: str) -> Any:
        found = parse(f"${text}$", config, fallback_mode="no_fallback", parsing_timeout=None)  # type: ignore[arg-type]
        return found[0] if found else None

    return parsed


def _comparison(
    parsed: Callable[[str], Any], form: Form, tolerance: float
) -> Callable[[Request, Stage], str]:
    from math_verify import verify

    @lru_cache(maxsize=1024)
    def usable_gold(text: str) -> Any:
        """The gold answer; compared once already, so that its own cost is not the answer's fault."""
        gold = parsed(text)
        if gold is None or not _is_defined(gold):
            return None
        verify(gold, parsed(PROBE), timeout_seconds=None)
        return gold

    def compare(request: Request, stage: Stage) -> str:
        gold = usable_gold(request["gold"])
        if gold is None:
            return "gold_unparseable"
        stage("answer")
        stated = parsed(request["answer"])
        if stated is None:
            return "malformed"
        close = _numerically_equal(gold, stated, tolerance)
        if close is None:
            exact = _exact(gold, stated)
            close = verify(gold, exact, allow_set_relation_comp=True, timeout_seconds=None)
            close = close or _same_form(gold, exact, form)
        return "correct" if close else "incorrect"

    return compare


def _same_form(gold: Any, stated: Any, form: Form) -> bool:
    """Whether both have the same canonical form; not for equations, whose form leaves out names."""
    from sympy import Eq

    if isinstance(gold, Eq) or isinstance(stated, Eq):
        return False
    wanted = form(gold)
    return wanted is not None and wanted == form(stated)


def _form(parsed: Callable[[str], Any], form: Form) -> Callable[[Request, Stage], str | None]:
    def canonical(request: Request, stage: Stage) -> str | None:
        value = parsed(request["answer"])
        return None if value is None else form(value)

    return canonical


def _opinion(request: Request, stage: Stage) -> bool:
    from math_verify import parse, verify

    gold = parse(f"${request['gold']}$", parsing_timeout=None)  # type: ignore[arg-type]
    stated = parse(request["text"], parsing_timeout=None)  # type: ignore[arg-type]
    return bool(verify(gold, stated, timeout_seconds=None))


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
