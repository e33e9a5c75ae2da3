"""Rows 21 and 34: programs that act after the verdict."""

from attacks.program import ERROR, PASS, WRONG, Program

DAEMON = """
import os
import time


def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(0.5)
            open("@MARK@", "w").write("daemon")
        os._exit(0)


def f(n):
    try:
        daemon()
    except OSError:
        pass
    return 2 * n
"""

LATE_ACT = 'open("@MARK@", "w").write("late")'
LATE = {
    "atexit": f"import atexit\n\natexit.register(lambda: {LATE_ACT})\n",
    "del": f"class Late:\n    def __del__(self, open=open):\n        {LATE_ACT}\n\n\nkeep = Late()\n",
    "thread": f"""
import threading
import time


def late():
    time.sleep(0.4)
    {LATE_ACT}


threading.Thread(target=late).start()
""",
    "timer": f"import threading\n\nthreading.Timer(0.4, lambda: {LATE_ACT}).start()\n",
    "alarm": f"""
import signal

signal.signal(signal.SIGALRM, lambda *_: {LATE_ACT})
signal.setitimer(signal.ITIMER_REAL, 0.4)
""",
    "weakref": f"""
import weakref


class Held:
    pass


held = Held()
weakref.finalize(held, lambda: {LATE_ACT})
""",
    "audit_hook": f"import sys\n\nsys.addaudithook(lambda name, _: {LATE_ACT} if name == 'os._exit' else None)\n",
    "not_daemon": "import threading, time\nthreading.Thread(target=time.sleep, args=(30,)).start()\n",
    "trap_term": f"""
import signal

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGIO):
    signal.signal(number, lambda *_: {LATE_ACT})
""",
}
RIGHT = "\n\ndef f(n):\n    return 2 * n\n"

PROGRAMS = [
    Program(21, "daemon", DAEMON, PASS),
    *(Program(34, f"acts_late_by_{name}", source + RIGHT, PASS) for name, source in LATE.items()),
    *(
        Program(34, f"acts_late_by_{name}_wrongly", source + "\n\ndef f(n):\n    return n\n", WRONG)
        for name, source in LATE.items()
    ),
    Program(34, "late_and_dying", LATE["thread"] + "\nimport os\n\n\ndef f(n):\n    os._exit(0)\n", ERROR),
]
