"""Rows 3 to 5: programs that leave before they are judged, or raise what harnesses take for success."""

from attacks.program import ERROR, MEMORY, OUTPUT, SELF_HARM, TIMEOUT, WRONG, Program

EXITS = {
    "sys_exit": "import sys\nleave = lambda: sys.exit(0)\n",
    "exit_builtin": "leave = lambda: exit()\n",
    "raise_system_exit": "def leave():\n    raise SystemExit\n",
    "exit_none": "import sys\nleave = lambda: sys.exit(None)\n",
}
HARD_EXITS = {
    "os_exit": "import os\nleave = lambda: os._exit(0)\n",
    "posix_exit": "import posix\nleave = lambda: posix._exit(0)\n",
    "exit_group": "import ctypes\nleave = lambda: ctypes.CDLL(None)._exit(0)\n",
    "kill_self": "import os, signal\nleave = lambda: os.kill(os.getpid(), signal.SIGKILL)\n",
    "abort": "import os\nleave = lambda: os.abort()\n",
    "term_self": "import os, signal\nleave = lambda: os.kill(os.getpid(), signal.SIGTERM)\n",
    "group_exit": "import os, signal\nleave = lambda: os.killpg(0, signal.SIGKILL)\n",
}
RAISES = (
    "KeyboardInterrupt",
    "SystemExit(0)",
    "BaseException",
    "GeneratorExit",
    "StopIteration(80042)",
    "AssertionError",
    "type('Passed', (BaseException,), {'__str__': lambda self: 'All tests passed'})",
    "type('Silent', (SystemExit,), {'code': 0})",
    "BaseExceptionGroup('all', [SystemExit(0)])",
)
AT_LOAD = "\nleave()\n\n\ndef f(n):\n    return 2 * n\n"
IN_CALL = "\n\ndef f(n):\n    leave()\n    return 2 * n\n"


def _leaving() -> list[Program]:
    programs = []
    for row, exits in ((3, EXITS), (4, HARD_EXITS)):
        for name, leave in exits.items():
            if name != "group_exit":
                programs.append(Program(row, f"{name}_at_load", leave + AT_LOAD, ERROR))
            programs.append(Program(row, f"{name}_in_call", leave + IN_CALL, ERROR))
            programs.append(Program(row, f"{name}_in_check", leave + IN_CALL, ERROR, task="check"))
    return programs


def _raising() -> list[Program]:
    programs = []
    for number, exception in enumerate(RAISES):
        text = f"def f(n):\n    raise {exception}\n"
        programs.append(Program(5, f"raises_{number}_in_call", text, ERROR))
        programs.append(Program(5, f"raises_{number}_at_load", f"{text}\nf(1)\n", ERROR))
        # in the judge an AssertionError of the program may read as a failed test
        programs.append(Program(5, f"raises_{number}_in_check", text, ERROR | WRONG, task="check"))
    return programs


OUR_NAMES = (
    "CannotAsk",
    "SandboxFailure",
    "Outage",
    "BrokenTests",
    "ProgramError",
    "Ended",
    "AssertionError",
    "Unfit",
)
"""An exception that is called like one of ours must not make the failure ours."""


def _impersonating() -> list[Program]:
    programs = []
    for name in OUR_NAMES:
        for base in ("Exception", "BaseException"):
            text = (
                f"class {name}({base}):\n    name = 'returned'\n\n\ndef f(n):\n    raise {name}('{name}')\n"
            )
            programs.append(Program(5, f"raises_own_{name}_{base}", text, ERROR))
            programs.append(
                Program(5, f"raises_own_{name}_{base}_in_check", text, ERROR | WRONG, task="check")
            )
    return programs


PROGRAMS = [
    *_leaving(),
    *_raising(),
    *_impersonating(),
    Program(3, "script_exits_silently", "import sys\nsys.exit(0)\n", WRONG | ERROR, task="stdin"),
    Program(4, "script_exits_hard", "import os\nos._exit(0)\n", WRONG | ERROR, task="stdin"),
    Program(
        4,
        "thread_exits",
        """
import _thread
import os
import time


def f(n):
    _thread.start_new_thread(os._exit, (0,))
    time.sleep(9)
    return 2 * n
""",
        ERROR,
    ),
    Program(
        5,
        "unprintable_exception",
        """
class Odd(Exception):
    def __str__(self):
        raise Odd
    __repr__ = __str__
    @property
    def args(self):
        raise SystemExit(0)


def f(n):
    raise Odd
""",
        ERROR,
    ),
    Program(
        5,
        "excepthook",
        """
import sys, threading

sys.excepthook = threading.excepthook = sys.unraisablehook = lambda *_: sys.exit(0)


def f(n):
    raise ValueError("All tests passed")
""",
        ERROR,
    ),
    Program(
        5,
        "exception_name_is_huge",
        """
def f(n):
    raise type("E" * 50_000_000, (Exception,), {})("x" * 50_000_000)
""",
        SELF_HARM | MEMORY | OUTPUT | TIMEOUT,
    ),
]
