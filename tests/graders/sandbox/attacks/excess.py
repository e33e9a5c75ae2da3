"""Rows 11, 12 and 15 to 19: programs that take all time or memory, or bring the interpreter down."""

from attacks.program import ERROR, MEMORY, OUTPUT, TIMEOUT, WRONG, Program

TIME = {
    (11, "busy"): "while True:\n    pass\n",
    (11, "sleep"): "import time\ntime.sleep(10**6)\n",
    (11, "waits_for_lock"): "import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()\n",
    (11, "pause"): "import signal\nsignal.pause()\n",
    (11, "select"): "import select\nselect.select([], [], [])\n",
    (11, "stops_itself"): "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nwhile True:\n    pass\n",
    (12, "ignores_signals"): """import signal
for number in range(1, 64):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    pass
""",
    (12, "catches_signals"): """import signal
for number in range(1, 64):
    try:
        signal.signal(number, lambda *_: None)
    except (OSError, ValueError):
        pass
while True:
    try:
        while True:
            pass
    except BaseException:
        pass
""",
    (12, "blocks_signals"): """import signal
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
while True:
    pass
""",
    (12, "spins_in_thread"): """import signal, threading
for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGXCPU):
    signal.signal(number, signal.SIG_IGN)
def spin():
    while True:
        pass
worker = threading.Thread(target=spin)
worker.start()
worker.join()
""",
    (16, "text_of_number"): """import sys
if hasattr(sys, "set_int_max_str_digits"):
    sys.set_int_max_str_digits(0)
for _ in range(50):
    len(str(7 ** 2_400_000))
while True:
    pass
""",
    (
        16,
        "multiplications",
    ): "number = 3\nfor _ in range(22):\n    number *= number\nwhile True:\n    number % 7\n",
    (19, "regex"): "import re\nre.match('(a+)+$', 'a' * 64 + 'b')\n",
    (19, "regex_nested"): "import re\nre.search('(x+x+)+y', 'x' * 64)\n",
    (19, "sum_of_range"): "sum(iter(int, 1))\n",
    (19, "sort_of_endless"): "max(__import__('itertools').count())\n",
}

MEMORY_EATERS = {
    "bytes": "held = []\nfor _ in range(4000):\n    held.append(bytearray(2**20))\n",
    "one_block": "held = bytearray(2**33)\n",
    "list": "held = [0] * 10**9\n",
    "text": "held = 'x'\nfor _ in range(40):\n    held += held\n",
    "map": "import mmap\nheld = [mmap.mmap(-1, 2**24) for _ in range(400)]\nfor m in held:\n    m[:] = bytes(2**24)\n",
    "swallows": """held = []
while len(held) < 4000:
    try:
        held.append(bytes(2**20))
    except MemoryError:
        raise
""",
}

POWER = "number = 7 ** (7 ** 12)\n"

CRASHES = {
    (17, "recursion"): ("import sys\nsys.setrecursionlimit(10**9)\ndef down():\n    down()\ndown()\n"),
    (
        17,
        "c_stack",
    ): "import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**6):\n    x = [x]\nrepr(x)\n",
    (17, "deep_compare"): (
        "import sys\nsys.setrecursionlimit(10**9)\na, b = [], []\n"
        "for _ in range(10**6):\n    a, b = [a], [b]\na == b\n"
    ),
    (17, "iterators"): "i = iter(())\nfor _ in range(10**6):\n    i = map(abs, i)\nlist(i)\n",
    (18, "null"): "import ctypes\nctypes.string_at(0)\n",
    (18, "jump_to_zero"): "import ctypes\nctypes.CFUNCTYPE(None)(8)()\n",
    (
        18,
        "bad_code",
    ): "def g(): pass\ng.__code__ = g.__code__.replace(co_code=bytes(range(255)) * 3 + b'x')\ng()\nraise OSError\n",
    (18, "faulthandler"): "import faulthandler\nfaulthandler._sigsegv()\n",
}

IN_CALL = "def f(n):\n    {}\n    return n\n"


def _indented(text: str) -> str:
    return IN_CALL.format(text.strip().replace("\n", "\n    "))


def _both(row: int, name: str, text: str, verdicts: frozenset) -> list[Program]:
    return [
        Program(row, f"{name}_in_call", _indented(text), verdicts),
        Program(row, f"{name}_script", text, verdicts, task="stdin"),
    ]


PROGRAMS = [
    *(p for (row, name), text in TIME.items() for p in _both(row, name, text, TIMEOUT)[:1]),
    Program(11, "busy_at_load", TIME[11, "busy"], TIMEOUT),
    Program(11, "busy_script", TIME[11, "busy"], TIMEOUT, task="stdin"),
    Program(11, "sleep_to_judge", _indented(TIME[11, "sleep"]), TIMEOUT, task="check"),
    Program(
        11,
        "waits_for_stdin",
        "import sys\n\n\ndef f(n):\n    sys.stdin.read()\n    return n\n",
        TIMEOUT | WRONG,
    ),
    *(p for name, text in MEMORY_EATERS.items() for p in _both(15, f"eats_{name}", text, MEMORY | ERROR)[:1]),
    Program(15, "eats_bytes_at_load", MEMORY_EATERS["bytes"], MEMORY | ERROR),
    Program(15, "eats_bytes_script", MEMORY_EATERS["bytes"], MEMORY, task="stdin"),
    *_both(16, "power", POWER, TIMEOUT | MEMORY),
    *(
        p
        for (row, name), text in CRASHES.items()
        for p in _both(row, name, text, ERROR | TIMEOUT | MEMORY)[:1]
    ),
    Program(18, "null_at_load", CRASHES[18, "null"], ERROR),
    Program(18, "null_script", CRASHES[18, "null"], ERROR, task="stdin"),
    Program(
        17,
        "returns_while_spinning",
        """
import threading


def spin():
    while True:
        pass


def f(n):
    for _ in range(3):
        threading.Thread(target=spin, daemon=True).start()
    return n
""",
        WRONG | TIMEOUT | OUTPUT,
    ),
]
