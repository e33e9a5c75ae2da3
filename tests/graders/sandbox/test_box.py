import time

import pytest
from plain_child import PlainChild

from lit_posttrain.graders.sandbox.box import ChildBox, EndedBox, refusal, run_script
from lit_posttrain.graders.sandbox.conversation import SandboxFailure
from lit_posttrain.graders.sandbox.interface import End, Limits, Reference, Reply

LIMITS = Limits(cpu_s=1, wall_s=5, output_kib=64)
FORGED = '["l","returned",6,["t"],"",""]\\n'


@pytest.fixture
def opened():
    boxes = []

    def open_box(source, limits=LIMITS):
        boxes.append(ChildBox(PlainChild(cpu_s=1), source, limits))
        return boxes[-1]

    yield open_box
    for box in boxes:
        box.close()


def test_answers_come_back_as_plain_data(opened):
    box = opened("def f(n, *, k=1): return {n: [k, (n,)]}\nclass A:\n  x = 5")
    assert box.call("f", [3], {"k": 2}).value == {3: [2, (3,)]}
    assert box.call("f", [3]).value == {3: [1, (3,)]}
    assert box.get("A", "x").value == 5
    assert box.get("A.x").value == 5


def test_a_raised_exception_leaves_the_program_usable(opened):
    box = opened("def f(n):\n  if n: raise ValueError('n\\ud800 is ' + str(n))\n  return 1")
    reply = box.call("f", [3])
    assert (reply.end, reply.error, reply.note) == (End.RAISED, "ValueError", "n\\ud800 is 3")
    assert box.call("f", [0]).value == 1
    assert box.call("g", [0]).error == "NameError"


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "BaseException", "GeneratorExit"])
def test_exceptions_that_end_programs_are_raised_too(opened, name):
    box = opened(f"def f(): raise {name}")
    assert box.call("f").error == name


def test_loading_that_fails_is_every_reply(opened):
    for source, error in (
        ("1/0", "ZeroDivisionError"),
        ("def", "SyntaxError"),
        ("import sys; sys.exit(0)", "SystemExit"),
    ):
        box = opened(source)
        assert (box.loaded.end, box.call("f").end, box.call("f").error) == (End.RAISED, End.RAISED, error)


@pytest.mark.parametrize(
    ("body", "end"),
    [
        ("import os; os._exit(0)", End.DIED),
        ("import os; os.kill(os.getpid(), 11)", End.DIED),
        ("while True: pass", End.TIMEOUT),
        ("return bytearray(10**12)", End.MEMORY_LIMIT),
        ("return 'x' * 100_000", End.OUTPUT_LIMIT),
        ("a = []; a.append(a); return a", End.OUTPUT_LIMIT),
        ("while True: print('x' * 99)", End.OUTPUT_LIMIT),
        ("import sys\n  while True: sys.stderr.write('x' * 99)", End.OUTPUT_LIMIT),
        ("import os\n  while True: os.write(3, b'x' * 999)", End.OUTPUT_LIMIT),
        ("import os; os.write(3, b'[1]\\n'); import time; time.sleep(9)", End.PROTOCOL_ERROR),
        ("import os; os.write(3, b'\\xff\\n'); import time; time.sleep(9)", End.PROTOCOL_ERROR),
    ],
)
def test_ends_of_a_program_are_final(opened, body, end):
    box = opened(f"def f():\n  {body}")
    reply = box.call("f")
    assert reply.end is end, reply
    assert reply.note.isascii()
    assert box.call("f") == reply
    assert box.get("f") == reply


def test_wall_time_counts_sleep():
    box = ChildBox(PlainChild(), "import time\ndef f(): time.sleep(60)", Limits(wall_s=0.5))
    assert box.call("f").end is End.TIMEOUT
    box.close()


def test_an_answer_before_the_question_is_a_protocol_error(opened):
    box = opened(
        f"import os, threading, time\n"
        f"def late(): time.sleep(0.2); os.write(3, b'{FORGED}')\n"
        f"def f(n):\n  threading.Thread(target=late).start()\n  return 2 * n"
    )
    assert box.call("f", [3]).value == 6
    time.sleep(0.5)
    assert box.call("f", [3]).end is End.PROTOCOL_ERROR


def test_an_answer_too_many_ends_the_conversation(opened):
    box = opened(f"import os\ndef f(n): os.write(3, b'{FORGED}'); return 2 * n")
    box.call("f", [3])
    time.sleep(0.2)
    assert box.call("f", [4]).end is End.PROTOCOL_ERROR


def test_answers_at_import_spoil_the_loading(opened):
    assert opened(f"import os; os.write(3, b'{FORGED}' * 2)").loaded.end is End.PROTOCOL_ERROR


def test_objects_stay_in_the_box(opened):
    box = opened("class A:\n  def __init__(self, x): self.x = x\n  def get(self): return self.x\nlast = None")
    assert box.call("A", [1]).value == Reference(-1, "A")
    kept = box.call("A", [7], keeps_objects=True).value
    assert kept.kind == "A"
    assert box.set(kept, "x", [8]).end is End.RETURNED
    method = box.get(kept, "get").value
    assert box.call(method).value == [8]
    assert box.call(Reference(-1, "A")).end is not End.RETURNED


def test_arguments_are_told_as_the_call_left_them(opened):
    box = opened("def f(a, b): a.append(b); b['k'] = 1")
    reply = box.call("f", [[1], {}], tells_arguments=True)
    assert reply.arguments == ([1, {"k": 1}], {"k": 1})


@pytest.mark.parametrize("source", ["a\0b", "x" * (256 * 1024 + 1), "é" * (200 * 1024), "\ud800"])
def test_some_texts_are_not_even_tried(source):
    reply = refusal(source, Limits())
    assert reply is not None
    assert reply.end is End.REJECTED
    box = EndedBox(reply)
    assert box.call("f") == box.get("f") == box.set(Reference(1), "a", 1) == reply


def test_hostile_sources_hurt_only_their_box(opened):
    assert refusal("(" * 100_000, Limits()) is None
    assert opened("(" * 100_000).loaded.end is not End.RETURNED
    assert opened("\ufeff# -*- coding: latin-1 -*-\ndef f(): return 1").loaded.end in (
        End.RETURNED,
        End.RAISED,
    )


def script(source, stdin=b""):
    return run_script(PlainChild(cpu_s=1, with_stdin=True), source, stdin, LIMITS)


def test_scripts_read_and_print():
    assert script("print(2 * int(input()))", b"21\n") == Reply(End.RETURNED, printed=b"42\n")
    assert script("import sys; sys.stdout.write(sys.stdin.read())", b"x\n" * 9000).printed == b"x\n" * 9000
    assert script("print(1)", b"x" * 10_000_000).printed == b"1\n"  # nobody reads the input


@pytest.mark.parametrize(
    "last", ["", "sys.exit()", "sys.exit(0)", "sys.stdout.flush(); os._exit(0)", "raise SystemExit"]
)
def test_scripts_may_exit_with_zero(last):
    reply = script(f"import os, sys\nif __name__ == '__main__': print('ä')\n{last}")
    assert (reply.end, reply.printed) == (End.RETURNED, "ä\n".encode())


@pytest.mark.parametrize(
    ("source", "end"),
    [
        ("import sys; print(1); sys.exit(1)", End.RAISED),
        ("1/0", End.RAISED),
        ("import os; os._exit(3)", End.DIED),
        ("while True: pass", End.TIMEOUT),
        ("while True: print('x' * 99)", End.OUTPUT_LIMIT),
    ],
)
def test_scripts_that_fail(source, end):
    assert script(source).end is end


def test_threads_and_exit_functions_of_scripts_are_waited_for():
    source = "import atexit, threading, time\natexit.register(print, 2)\n"
    source += "threading.Thread(target=lambda: (time.sleep(0.2), print(1))).start()"
    assert script(source).printed == b"1\n2\n"


class LostChild(PlainChild):
    def wait(self, timeout_s):
        super().wait(timeout_s)
        raise SandboxFailure("nobody knows")


def test_our_own_failures_are_said_to_be_ours():
    box = ChildBox(LostChild(), "import os\ndef f(): os._exit(1)", LIMITS)
    assert box.call("f").end is End.SANDBOX_ERROR
    box.close()
