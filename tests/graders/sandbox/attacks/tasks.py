"""The task f(n) = 2n, asked in four ways."""

from typing import Any

INPUTS = (40_021, -7_000_123, 913_000_111)

CHECK = f"""
def check(candidate):
    inputs = {list(INPUTS)}
    for n, answer in zip(inputs, map(candidate, inputs)):
        assert answer == n + n
    for n in inputs:
        assert not answer_differs(candidate(n), n)


def answer_differs(answer, n):
    return answer != n + n
"""

REFERENCES: dict[str, dict[str, Any]] = {
    "function": {
        "kind": "function",
        "entry": "f",
        "tests": [{"args": [n], "kwargs": {}, "expected": 2 * n} for n in INPUTS],
    },
    "stdin": {
        "kind": "stdin",
        "tests": [{"stdin": f"{n}\n", "stdout": f"{2 * n}\n"} for n in INPUTS],
        "trim": True,
    },
    "asserts": {
        "kind": "asserts",
        "setup": "",
        "entry": "f",
        "tests": [f"assert f({n}) == {2 * n}" for n in INPUTS],
    },
    "check": {"kind": "check", "prompt": "", "entry": "f", "tests": CHECK},
}
"""Reference answers by task; `check` cannot be rewritten into cases, so it needs a judge."""
