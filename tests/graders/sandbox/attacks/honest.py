"""Rows 1 and 2: honest programs, right and wrong."""

from attacks.program import ERROR, PASS, WRONG, Program

RIGHT = {
    "plain": "def f(n):\n    return 2 * n\n",
    "recursion": """
def f(n):
    if n < 0:
        return -f(-n)
    return 0 if n == 0 else 2 * f(n // 2) + 2 * (n % 2)
""",
    "threads": """
import threading
from concurrent.futures import ThreadPoolExecutor

found = []
worker = threading.Thread(target=lambda: found.append(2))
worker.start()
worker.join()


def f(n):
    with ThreadPoolExecutor(4) as pool:
        return sum(pool.map(lambda part: part, [n] * found[0]))
""",
    "big_stack": """
import sys
import threading

sys.setrecursionlimit(300_000)
threading.stack_size(64 * 1024 * 1024)


def down(depth, n):
    return n if depth == 0 else down(depth - 1, n)


def f(n):
    out = []
    thread = threading.Thread(target=lambda: out.append(down(20_000, n) * 2))
    thread.start()
    thread.join()
    return out[0]
""",
    "imports": """
import array, bisect, collections, copy, dataclasses, datetime, decimal, enum, fractions, functools, hashlib, heapq
import itertools, json, math, operator, queue, random, re, statistics, string, struct, textwrap, time, typing, uuid


@functools.lru_cache(None)
def f(n):
    token = uuid.uuid4(), random.random(), hashlib.sha256(b"x").digest(), datetime.datetime.now(), time.time()
    parts = heapq.nlargest(2, collections.Counter({n: 2}).elements())
    return int(fractions.Fraction(decimal.Decimal(sum(parts)))) + 0 * len(token)
""",
    "dataclass": """
from dataclasses import dataclass


@dataclass
class Doubler:
    factor: int = 2

    def __call__(self, n):
        return self.factor * n


f = Doubler()
""",
    "noisy": """
import sys

print("loading" * 50)


def f(n):
    print("f was asked", n, "caf\\u00e9")
    print("and warns", file=sys.stderr)
    return n + n
""",
    "main_block": "def f(n):\n    return n << 1\n\n\nif __name__ == '__main__':\n    print(f(int(input())))\n",
    "catches_all": """
def f(n):
    try:
        raise SystemExit(3)
    except BaseException:
        return 2 * n
""",
    "whole_subclass": """
import enum


class Number(int):
    pass


def f(n):
    return Number(2 * n)
""",
}

RIGHT_SCRIPTS = {
    "input": "n = int(input())\nprint(2 * n)\n",
    "read_line": "import sys\ninput = sys.stdin.readline\nprint(int(input()) * 2, flush=True)\n",
    "buffers": "import sys\nn = int(sys.stdin.buffer.read())\nsys.stdout.buffer.write(b'%d' % (2 * n))\n",
    "open_zero": "n, = map(int, open(0).read().split())\nprint(n + n, '  ')\n",
    "exits_well": "import sys\nprint(2 * int(sys.stdin.read()))\nsys.exit(0)\n",
    "main": "def main():\n    print(2 * int(input()))\n\n\nif __name__ == '__main__':\n    main()\n",
}

MISTAKEN = {
    "same": ("def f(n):\n    return n\n", WRONG),
    "text": ("def f(n):\n    return str(2 * n)\n", WRONG),
    "float": ("def f(n):\n    return 2.0 * n\n", WRONG),
    "nothing": ("def f(n):\n    print(2 * n)\n", WRONG),
    "listed": ("def f(n):\n    return [2 * n]\n", WRONG),
    "one_of_three": ("def f(n):\n    return 80042\n", WRONG),
    "generator": ("def f(n):\n    yield 2 * n\n", WRONG),
    "other_name": ("def g(n):\n    return 2 * n\n", ERROR),
    "no_function": ("f = 80042\n", ERROR),
    "other_arguments": ("def f(n, m):\n    return 2 * n\n", ERROR),
    "raises": ("def f(n):\n    return 2 * n // 0\n", ERROR),
    "does_not_parse": ("def f(n):\n    return 2 *\n", ERROR),
    "no_such_module": ("import no_such_module_at_all\n\n\ndef f(n):\n    return 2 * n\n", ERROR),
}

PROGRAMS = [
    *(Program(1, f"honest_{name}", source, PASS) for name, source in RIGHT.items()),
    *(
        Program(1, f"honest_script_{name}", source, PASS, task="stdin")
        for name, source in RIGHT_SCRIPTS.items()
    ),
    *(Program(1, f"honest_{task}", RIGHT["plain"], PASS, task=task) for task in ("asserts", "check")),
    Program(1, "honest_per_test", RIGHT["plain"], PASS, isolate="per_test"),
    *(Program(2, f"mistaken_{name}", source, verdicts) for name, (source, verdicts) in MISTAKEN.items()),
    *(Program(2, f"mistaken_{task}", MISTAKEN["same"][0], WRONG, task=task) for task in ("asserts", "check")),
    Program(2, "mistaken_script", "print(int(input()))\n", WRONG, task="stdin"),
    Program(2, "mistaken_script_silent", "int(input())\n", WRONG, task="stdin"),
    Program(2, "mistaken_script_raises", "print(2 * int(input()) // 0)\n", ERROR, task="stdin"),
]
