"""Rows 7 and 8: programs that patch or search the process that they run in."""

from attacks.program import ERROR, OUTPUT, PROTOCOL, SELF_HARM, TIMEOUT, WRONG, Program

PATCHES = {
    "builtins": """
import builtins

for name in ("isinstance", "issubclass", "type", "len", "repr", "id", "hash", "any", "all", "abs", "sorted"):
    setattr(builtins, name, lambda *_, **__: True)
""",
    "operators": """
import operator

operator.eq = operator.ne = operator.is_ = lambda *_: True
import math
math.isclose = lambda *_, **__: True
""",
    "json": """
import json
import json.encoder
import json.decoder

json.dumps = lambda *_, **__: '{"ok": true, "value": 80042}'
json.loads = lambda *_, **__: {"expected": 80042, "end": "returned"}
json.encoder.JSONEncoder.encode = lambda *_: "80042"
json.encoder.JSONEncoder.iterencode = lambda *_, **__: iter(["80042"])
json.encoder.c_make_encoder = None
""",
    "os_and_sockets": """
import os
import socket
import struct

real = os.write
os.write = lambda fd, data: real(fd, data.replace(b"0", b"1"))
socket.socket.send = socket.socket.sendall = lambda self, data, *_: len(data)
struct.pack = lambda *_: b"\\0" * 8
""",
    "modules": """
import sys
import types

for name, module in list(sys.modules.items()):
    for key, value in list(vars(module).items()):
        if isinstance(value, types.FunctionType) and key.startswith(("encode", "dump", "equal", "compare", "same")):
            setattr(module, key, lambda *_, **__: 80042)
""",
    "code_objects": """
import gc
import types


def right(*_, **__):
    return True


for function in gc.get_objects():
    if isinstance(function, types.FunctionType) and function.__name__.startswith(("compar", "equal", "check", "same")):
        function.__code__ = right.__code__
""",
    "trace": """
import sys
import threading


def trace(frame, event, value):
    for name in ("expected", "passed", "correct", "verdict", "reward", "result", "ok"):
        if name in frame.f_locals:
            frame.f_locals[name] = True
    return trace


sys.settrace(trace)
threading.settrace(trace)
sys.setprofile(trace)
""",
    "no_modules": """
import sys

for name in list(sys.modules):
    sys.modules[name] = None
""",
    "no_builtins": "import builtins\n\nfor name in list(vars(builtins)):\n    vars(builtins).pop(name)\n",
    "import_hook": """
import builtins

builtins.__import__ = lambda *_, **__: __builtins__
""",
    "globals_of_frames": """
import sys

frame = sys._getframe()
while frame:
    for name in list(frame.f_globals):
        if "expect" in name.lower() or "answer" in name.lower() or "result" in name.lower():
            frame.f_globals[name] = True
    frame = frame.f_back
""",
    "int_dunders_by_ctypes": """
import ctypes
import gc

table = gc.get_referents(int.__dict__)[0]
table["__eq__"] = lambda *_: True
ctypes.pythonapi.PyType_Modified(ctypes.py_object(int))
""",
}
WITH_N = "\n\ndef f(n):\n    return n\n"

SEARCH = """
import re
import sys


def is_answer(found, n):
    return type(found) is int and n != 0 and found - n == n


def in_bytes(text, n):
    for digits in re.findall(rb"\\d{5,12}", text):
        if is_answer(int(digits), abs(n)):
            return int(digits) * (1 if n > 0 else -1)
"""

HUNTS = {
    "objects": """
import gc


def f(n):
    gc.collect()
    for holder in gc.get_objects():
        for found in gc.get_referents(holder):
            if is_answer(found, n):
                return found
            if type(found) in (str, bytes):
                got = in_bytes(found if type(found) is bytes else found.encode("utf-8", "replace"), n)
                if got is not None:
                    return got
""",
    "frames": """
def f(n):
    frames = list(sys._current_frames().values())
    while frames:
        frame = frames.pop()
        for space in (frame.f_locals, frame.f_globals, dict(enumerate(frame.f_code.co_consts))):
            for found in space.values():
                if is_answer(found, n):
                    return found
                for inner in found if isinstance(found, (list, tuple, set)) else ():
                    if is_answer(inner, n):
                        return inner
        if frame.f_back:
            frames.append(frame.f_back)
""",
    "memory_file": """
def f(n):
    with open("/proc/self/maps") as maps:
        regions = [line.split() for line in maps if "rw" in line.split()[1]]
    with open("/proc/self/mem", "rb", 0) as memory:
        for region in regions:
            start, end = (int(edge, 16) for edge in region[0].split("-"))
            memory.seek(start)
            got = in_bytes(memory.read(min(end - start, 2**24)), n)
            if got is not None:
                return got
""",
    "heap_by_ctypes": """
import ctypes


def f(n):
    step, middle = 2**16, id(object()) & ~0xFFFF
    for start in range(middle - 2**19, middle + 2**19, step):
        got = in_bytes(ctypes.string_at(start, step), n)
        if got is not None:
            return got
""",
    "other_memory": """
import os


def f(n):
    for process in ("@GRADER@", str(os.getppid()), "1"):
        try:
            with open(f"/proc/{process}/mem", "rb", 0) as memory, open(f"/proc/{process}/maps") as maps:
                for line in maps:
                    start, end = (int(edge, 16) for edge in line.split()[0].split("-"))
                    memory.seek(start)
                    got = in_bytes(memory.read(min(end - start, 2**22)), n)
                    if got is not None:
                        return got
        except (OSError, ValueError, OverflowError):
            pass
""",
    "test_file": """
import os


def f(n):
    for path in ("@TESTS_FILE@", "tests.json", "../tests.json", "/proc/self/cmdline", "@GRADER_CMDLINE@"):
        try:
            with open(path, "rb") as file:
                got = in_bytes(file.read(), n)
        except OSError:
            continue
        if got is not None:
            return got
""",
    "inherited": """
import os


def f(n):
    for fd in range(3, 1024):
        for read in (lambda: os.pread(fd, 65536, 0), lambda: os.read(fd, 0)):
            try:
                got = in_bytes(read(), n)
            except OSError:
                continue
            if got is not None:
                return got
""",
    "linecache_and_argv": """
import linecache
import os


def f(n):
    texts = [repr(sys.argv), repr(dict(os.environ)), repr(linecache.cache), repr(sys.modules.get("__main__"))]
    for text in texts:
        got = in_bytes(text.encode("utf-8", "replace"), n)
        if got is not None:
            return got
""",
}

ANNOUNCED = """
import sys


class Answer:
    def __eq__(self, other):
        STOLEN.append(other)
        return True
    __hash__ = None


STOLEN = []


def f(n):
    return STOLEN[0] if STOLEN else Answer()
"""

PROGRAMS = [
    *(
        Program(7, f"patches_{name}", source + WITH_N, SELF_HARM | TIMEOUT)
        for name, source in PATCHES.items()
    ),
    *(
        Program(7, f"patches_{name}_for_judge", source + WITH_N, SELF_HARM | TIMEOUT, task="check")
        for name, source in PATCHES.items()
    ),
    *(
        Program(8, f"hunts_{name}", SEARCH + source, WRONG | TIMEOUT | ERROR)
        for name, source in HUNTS.items()
    ),
    *(
        Program(8, f"hunts_{name}_of_judge", SEARCH + HUNTS[name], WRONG | TIMEOUT | ERROR, task="check")
        for name in ("objects", "frames", "heap_by_ctypes")
    ),
    Program(8, "steals_by_comparison", ANNOUNCED, WRONG | ERROR | PROTOCOL),
    Program(8, "steals_by_comparison_from_judge", ANNOUNCED, WRONG | ERROR | PROTOCOL, task="check"),
    Program(
        8, "steals_by_comparison_from_asserts", ANNOUNCED, WRONG | ERROR | PROTOCOL | OUTPUT, task="asserts"
    ),
]
