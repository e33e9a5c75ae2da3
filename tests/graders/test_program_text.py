import time

import pytest

from lit_posttrain.graders.program_text import blocks, continued, defines, program_text

F = "def f(n):\n    return n\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"Here:\n```python\n{F}```\nDone.", F),
        (f"~~~py\n{F}~~~", F),
        (f"```\n{F}```", F),
        (f"```python\n{F}", F),  # never closed
        (f"```python\n{F.rstrip()}```", F),  # closed on the last line
        (f"```python\n{F}```\nUse it:\n```python\nprint(f(1))\n```", F),
        (
            "```python\ndef f(n): return 0\n```\nBetter:\n```python\ndef f(n): return 1\n```",
            "def f(n): return 1\n",
        ),
        (
            "```python\nimport math\n```\n```python\nx = 1\n```",
            "import math\n\nx = 1\n",
        ),  # none defines it: all
        (f"```text\nf\n```\n```python\n{F}```\n```\n1 2\n```", F),
        (f"<think>```python\ndef f(n): return 9\n```</think>\n```python\n{F}```", F),
        (F, F),
        ("f = lambda n: n", "f = lambda n: n"),
        ("    ```python\ndef f(): pass\n    ```", "def f(): pass\n"),
        ("I would return n.", None),
        ("```python\n```", None),
        ("```bash\nls\n```", None),
        (f"<think>```python\n{F}```</think>", None),
        ("", None),
    ],
)
def test_the_program_of_a_completion(text, expected):
    assert program_text(text, "f") == expected


def test_without_an_entry_the_last_block_counts():
    text = "```python\nprint(1)\n```\n```python\nprint(2)\n```\nOutput:\n```\n2\n```"
    assert program_text(text) == "print(2)\n"
    assert program_text("n = int(input())\nprint(n)") == "n = int(input())\nprint(n)"
    assert program_text("The answer is 4.") is None


def test_a_fence_inside_a_longer_fence_is_text():
    assert blocks("````python\nx = '''\n```\n'''\n````") == [("python", "x = '''\n```\n'''\n")]


def test_continuations_end_where_the_body_does():
    prompt = 'def f(n):\n    """Twice."""\n'
    assert (
        continued(prompt, "    return 2 * n\n\nprint(f(1))\ndef g(): pass") == prompt + "    return 2 * n\n\n"
    )


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def f(x): pass", True),
        ("async def f (x): pass", True),
        ("class f: pass", True),
        ("f = g", True),
        ("f == g", False),
        ("def ff(x): pass", False),
        ("    def f(x): pass", False),
        ("print(f(1))", False),
    ],
)
def test_defines(code, expected):
    assert defines(code, "f") is expected


def test_hostile_texts_take_little_time():
    started = time.monotonic()
    for text in (
        "```" * 100_000,
        "```\n" * 100_000,
        " " * 300_000,
        "```python\n" + "(" * 300_000,
        "f" * 300_000,
    ):
        program_text(text, "f")
    assert time.monotonic() - started < 5
