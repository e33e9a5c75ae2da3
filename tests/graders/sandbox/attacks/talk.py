"""Rows 9, 10, 13 and 14: programs that print verdicts, speak out of turn, or never stop talking."""

from attacks.program import ERROR, MEMORY, OUTPUT, PASS, PROTOCOL, SELF_HARM, TIMEOUT, WRONG, Program

CLAIMS = (
    "PASSED",
    "1.0",
    "All tests passed",
    "OK",
    '{"passed": true, "score": 1.0}',
    "test_f PASSED [100%]",
    "True",
)
CLAIM = "import sys\n\nprint({0!r})\nprint({0!r}, file=sys.stderr)\nprint({0!r}, file=sys.__stdout__, flush=True)\n"
CLAIM_IN_CALL = "\n\ndef f(n):\n    print({0!r}, flush=True)\n    return {0!r}\n"

ALL_FDS = """
import os


def spread(text):
    for fd in range(1024):
        try:
            os.write(fd, text)
        except OSError:
            pass

"""

FRAMES = {
    "lines": r'b"80042\n" * 5',
    "json_lines": r"""b'{"end": "returned", "ok": true, "value": 80042}\n' * 5""",
    "tagged_lines": r"""b'["returned", 80042]\n' * 5""",
    "lengths": r"""b"".join(n.to_bytes(size, order) + b"80042" for n in (5, 13) for size in (4, 8)
                  for order in ("big", "little"))""",
    "zeros": r'b"\0" * 4096',
    "ones": r'b"\xff" * 4096',
    "huge_length": r'b"\x7f\xff\xff\xff" + b"[" * 100_000',
    "deep": r'b"[" * 100_000 + b"\n"',
    "infinite_numbers": r'b"1e999\nNaN\n-Infinity\n" * 9',
}

OWN_VOICE = """
import gc
import os
import sys
import types


def voices():
    frame, seen = sys._getframe(), set()
    spaces = []
    while frame:
        spaces += [frame.f_globals, frame.f_locals]
        frame = frame.f_back
    spaces += [vars(module) for module in list(sys.modules.values()) if isinstance(module, types.ModuleType)]
    for space in spaces:
        for name, value in list(space.items()):
            if any(word in name.lower() for word in ("send", "write_frame", "reply", "answer", "tell", "put")):
                if callable(value) and id(value) not in seen:
                    seen.add(id(value))
                    yield value


def forge():
    fds = [fd for fd in range(3, 64)]
    for voice in list(voices()):
        for message in ({"end": "returned", "value": 80042, "ok": True}, ["returned", 80042], b"80042", 80042):
            for arguments in ((message,), *((fd, message) for fd in fds)):
                try:
                    voice(*arguments)
                except BaseException:
                    pass

"""

ECHO = """
import os


def f(n):
    for fd in range(3, 64):
        try:
            os.set_blocking(fd, False)
            os.write(fd, os.read(fd, 65536) or b"80042\\n")
        except OSError:
            pass
    return n
"""

NOISE = {
    "stdout": "import os\nwhile True:\n    os.write(1, b'x' * 65536)\n",
    "stderr": "import os\nwhile True:\n    os.write(2, b'x' * 65536)\n",
    "prints": "while True:\n    print('x' * 1000)\n",
    "both": "import sys\nwhile True:\n    print('x' * 1000)\n    print('y' * 1000, file=sys.stderr)\n",
}

LARGE = {
    "100_mb_text": ("'x' * 100_000_000", OUTPUT | MEMORY),
    "100_mb_bytes": ("bytes(100_000_000)", OUTPUT | MEMORY),
    "100_mb_list": ("[0] * 12_000_000", OUTPUT | MEMORY | TIMEOUT),
    "shared_list": ("[['x' * 1000] * 1000] * 1000", OUTPUT | MEMORY | TIMEOUT),
    "billion_laughs": ("laugh(30)", OUTPUT | MEMORY | TIMEOUT | PROTOCOL | WRONG),
    "deep_list": ("deep(1_000_000, lambda inner: [inner])", OUTPUT | PROTOCOL | WRONG | ERROR),
    "deep_dict": ("deep(100_000, lambda inner: {'a': inner})", OUTPUT | PROTOCOL | WRONG | ERROR),
    "deep_tuple": ("deep(2_000, lambda inner: (inner,))", OUTPUT | PROTOCOL | WRONG | ERROR),
    "2_million_digits": ("1 << 7_000_000", OUTPUT | TIMEOUT | PROTOCOL | WRONG),
}
LARGE_TOOLS = """
def laugh(depth):
    value = ["ha"]
    for _ in range(depth):
        value = [value, value]
    return value


def deep(depth, wrap):
    value = 1
    for _ in range(depth):
        value = wrap(value)
    return value


def f(n):
    return {}
"""


def _claims() -> list[Program]:
    programs = []
    for number, claim in enumerate(CLAIMS):
        text = CLAIM.format(claim)
        in_call = text + CLAIM_IN_CALL.format(claim)
        programs.append(Program(9, f"claims_{number}", in_call, WRONG))
        programs.append(Program(9, f"claims_{number}_to_judge", in_call, WRONG | ERROR, task="check"))
        programs.append(Program(9, f"claims_{number}_as_script", text, WRONG, task="stdin"))
    return programs


def _out_of_turn() -> list[Program]:
    programs = []
    for name, frame in FRAMES.items():
        text = f"{ALL_FDS}\nTEXT = {frame}\n"
        at_load = f"{text}spread(TEXT)\n\n\ndef f(n):\n    return n\n"
        in_call = f"{text}\n\ndef f(n):\n    spread(TEXT)\n    return n\n"
        programs.append(Program(10, f"speaks_{name}_at_load", at_load, PROTOCOL | OUTPUT))
        programs.append(Program(10, f"speaks_{name}_in_call", in_call, PROTOCOL | OUTPUT))
        programs.append(Program(10, f"speaks_{name}_to_judge", in_call, PROTOCOL | OUTPUT, task="check"))
    return programs


PROGRAMS = [
    *_claims(),
    *_out_of_turn(),
    Program(
        10, "own_voice_at_load", OWN_VOICE + "forge()\n\n\ndef f(n):\n    return n\n", SELF_HARM | TIMEOUT
    ),
    Program(
        10, "own_voice_in_call", OWN_VOICE + "\ndef f(n):\n    forge()\n    return n\n", SELF_HARM | TIMEOUT
    ),
    Program(
        10, "own_voice_to_judge", OWN_VOICE + "\ndef f(n):\n    forge()\n", SELF_HARM | TIMEOUT, task="check"
    ),
    Program(10, "echoes", ECHO, SELF_HARM | OUTPUT | TIMEOUT),
    Program(
        10,
        "closes_all",
        "import os\n\n\ndef f(n):\n    os.closerange(0, 1024)\n    return 2 * n\n",
        SELF_HARM,
    ),
    Program(
        10,
        "closes_stdout",
        "import os\nos.close(1)\nos.close(2)\n\n\ndef f(n):\n    return 2 * n\n",
        PASS | ERROR,
    ),
    Program(
        10,
        "duplicates_over_all",
        "import os\n\n\ndef f(n):\n    for fd in range(3, 64):\n        os.dup2(1, fd)\n    return 2 * n\n",
        SELF_HARM | TIMEOUT,
    ),
    *(Program(13, f"endless_{name}_at_load", text, OUTPUT) for name, text in NOISE.items()),
    *(
        Program(13, f"endless_{name}_in_call", "def f(n):\n    " + text.replace("\n", "\n    "), OUTPUT)
        for name, text in NOISE.items()
    ),
    *(Program(13, f"endless_{name}_script", text, OUTPUT, task="stdin") for name, text in NOISE.items()),
    *(
        Program(14, f"returns_{name}", LARGE_TOOLS.format(expression), verdicts)
        for name, (expression, verdicts) in LARGE.items()
    ),
    *(
        Program(
            14,
            f"returns_{name}_to_judge",
            LARGE_TOOLS.format(expression),
            verdicts | WRONG | ERROR,
            task="check",
        )
        for name, (expression, verdicts) in LARGE.items()
    ),
]
