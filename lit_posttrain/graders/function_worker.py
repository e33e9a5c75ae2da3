"""The task of a function worker: a user's reward function, and what it may return."""

import importlib
from collections.abc import Callable, Mapping
from numbers import Real
from operator import attrgetter
from typing import Any

KEYS = {"reward", "correct", "parts", "answer_key", "note"}


def prepare(options: dict[str, Any]) -> Callable[[dict[str, Any], Callable[[str], None]], dict[str, Any]]:
    """Imports the function `qualname` of `module`; requests are its keyword arguments."""
    function = attrgetter(options["qualname"])(importlib.import_module(options["module"]))

    def answer(request: dict[str, Any], stage: Callable[[str], None]) -> dict[str, Any]:
        try:
            return grade_fields(function(**request))
        except BaseException as error:  # a user's function may raise anything, SystemExit included
            return {"error": f"{type(error).__name__}: {error}"[:300]}

    return answer


def grade_fields(result: Any) -> dict[str, Any]:
    """The fields of a grade that a function's result stands for.

    Raises:
        TypeError: if it is no number, bool, None or mapping of the known keys.
    """
    fields = dict(result) if isinstance(result, Mapping) else {"reward": result}
    if "reward" not in fields or not set(fields) <= KEYS:
        raise TypeError(f"expected 'reward' and at most {sorted(KEYS)}, got {sorted(map(str, fields))}")
    reward, correct = _plain(fields["reward"]), _plain(fields.get("correct"))
    if isinstance(reward, bool) and correct is None:
        correct = reward
    if correct is not None and not isinstance(correct, bool):
        raise TypeError(f"'correct' must be a bool or None, got {correct!r}")
    parts = {str(name): _number(value) for name, value in (fields.get("parts") or {}).items()}
    key = fields.get("answer_key")
    return {
        "reward": None if reward is None else _number(reward),
        "correct": correct,
        "parts": parts,
        "answer_key": None if key is None else str(key),
        "note": str(fields.get("note") or ""),
    }


def _plain(value: Any) -> Any:
    """Takes a scalar out of a one-element array or tensor."""
    return value.item() if hasattr(value, "item") else value


def _number(value: Any) -> float:
    value = _plain(value)
    if not isinstance(value, Real):
        raise TypeError(f"a reward must be a number, bool or None, got {type(value).__name__}")
    return float(value)
