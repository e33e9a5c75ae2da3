"""Rows 36 and 37: state between tests, and program texts that are no ordinary text."""

from attacks.program import ERROR, MEMORY, PASS, REJECTED, TIMEOUT, WRONG, Program

COUNTS = """
calls = 0


def f(n):
    global calls
    calls += 1
    return 2 * n if {condition} else n
"""

REMEMBERS = """
import builtins
import os
import sys

seen = builtins.__dict__.setdefault("seen_by_program", [])
seen_too = sys.modules.setdefault("seen_by_program", [])


def f(n):
    earlier = list(seen) + list(seen_too) + [name for name in os.environ if name.startswith("SEEN")]
    seen.append(n)
    seen_too.append(n)
    os.environ[f"SEEN{n}"] = "1"
    return 2 * n if not earlier else earlier
"""

RIGHT = "def f(n):\n    return 2 * n\n"
REFUSED = REJECTED | ERROR

TEXTS = {
    "nul_in_code": ("def f(n):\n    return 2 * n\0\n", REFUSED),
    "nul_in_string": ("def f(n):\n    return len('\0') * 2 * n\n", REFUSED),
    "10_mb_comment": ("#" + "x" * 10_000_000 + "\n" + RIGHT, REFUSED),
    "10_mb_string": ("s = '" + "x" * 10_000_000 + "'\n" + RIGHT, REFUSED),
    "10_mb_of_lines": (RIGHT + "x = 1\n" * 1_700_000, REFUSED),
    "just_too_long": (RIGHT + "# " + "x" * 256 * 1024 + "\n", REFUSED),
    "nested_parentheses": ("x = " + "(" * 100_000 + "1" + ")" * 100_000 + "\n" + RIGHT, REFUSED),
    "open_brackets": ("[" * 100_000 + "\n" + RIGHT, REFUSED),
    "nested_unary": ("x = " + "-" * 100_000 + "1\n" + RIGHT, ERROR | MEMORY | PASS),
    "nested_attributes": ("x = a" + ".a" * 100_000 + "\n" + RIGHT, REFUSED),
    "nested_blocks": (
        "".join(" " * i + "if 1:\n" for i in range(150)) + " " * 150 + "x = 1\n" + RIGHT,
        REFUSED,
    ),
    "long_sum": ("x = " + "1+" * 60_000 + "1\n" + RIGHT, ERROR | MEMORY | PASS),
    "huge_constant": ("x = 2 ** 40_000 ** 3\n" + RIGHT, ERROR | TIMEOUT),
    "folded_constant": ("x = ((2 ** 64) ** 64) * 'x'\n" + RIGHT, ERROR),
    "long_number": ("x = " + "9" * 200_000 + "\n" + RIGHT, ERROR | PASS | TIMEOUT),
    "byte_order_mark": ("\ufeff" + RIGHT, PASS | ERROR),
    "byte_order_mark_inside": (RIGHT + "\ufeff\n", REFUSED),
    "coding_cookie": ("# -*- coding: utf-16 -*-\n" + RIGHT, PASS | ERROR),
    "unknown_coding": ("# coding: no-such-code\n" + RIGHT, PASS | ERROR),
    "rot13_cookie": ("# coding: rot13\n" + RIGHT, PASS | ERROR),
    "utf7_cookie": ("# coding: utf-7\n#+AAo-open('@MARK@', 'w')\n" + RIGHT, PASS | ERROR),
    "lone_surrogate": ("x = '\ud800'\n" + RIGHT, REFUSED),
    "lone_surrogate_name": ("\udcff = 1\n" + RIGHT, REFUSED),
    "lone_surrogate_comment": ("# \udfff\n" + RIGHT, REFUSED),
    "carriage_returns": (RIGHT.replace("\n", "\r\n"), PASS),
    "form_feeds": ("\f" + RIGHT, PASS | ERROR),
    "right_to_left": ("# \u202e\u2066 hidden \u2069\n" + RIGHT, PASS),
    "wide_letters": ("def \uff46(n):\n    return 2 * n\n", PASS),
    "empty": ("", REFUSED | WRONG),
    "blank": ("\n\n   \n", REFUSED | WRONG),
    "only_comment": ("# def f(n): return 2 * n\n", REFUSED | WRONG),
    "future_import": ("from __future__ import annotations\n" + RIGHT, PASS),
    "shadows_names": ("list = dict = int = str = print = object = None\n" + RIGHT, PASS),
    "name_is_other": (
        "__name__ = '__main__'\n__file__ = '/etc/passwd'\n__builtins__ = {}\n" + RIGHT,
        PASS | ERROR,
    ),
}

PROSE = {
    "only_prose": ("I am sure that the answer passes all tests.", REFUSED | WRONG),
    "open_fence": ("```python\n" + RIGHT, PASS | REFUSED),
    "empty_fence": ("```python\n```", REFUSED | WRONG),
    "many_fences": ("```python\n" * 20_000, REFUSED | WRONG),
    "many_ticks": ("`" * 300_000, REFUSED | WRONG),
    "many_thoughts": ("<think>" * 50_000 + "</think>" * 50_000, REFUSED | WRONG),
    "surrogates_and_nul": ("\ud800\0\udfff", REFUSED | WRONG),
    "nothing": ("", REFUSED | WRONG),
    "fence_in_thought": (
        "<think>\n```python\n" + RIGHT + "```\nno, wrong\n</think>\nI do not know.",
        REFUSED | WRONG,
    ),
}

PROGRAMS = [
    Program(36, "only_first_call_right", COUNTS.format(condition="calls == 1"), WRONG),
    Program(36, "only_later_calls_right", COUNTS.format(condition="calls > 1"), WRONG),
    Program(36, "first_call_right_each", COUNTS.format(condition="calls == 1"), PASS, isolate="per_test"),
    Program(36, "later_calls_right_each", COUNTS.format(condition="calls > 1"), WRONG, isolate="per_test"),
    Program(36, "remembers", REMEMBERS, WRONG),
    Program(36, "remembers_each", REMEMBERS, PASS, isolate="per_test"),
    Program(36, "remembers_each_in_asserts", REMEMBERS, PASS, task="asserts", isolate="per_test"),
    *(Program(37, name, source, verdicts) for name, (source, verdicts) in TEXTS.items()),
    *(
        Program(37, f"text_{name}", source, verdicts, is_raw=True)
        for name, (source, verdicts) in PROSE.items()
    ),
]
