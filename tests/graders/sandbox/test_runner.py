"""Test code that is judged apart from the program that it tests."""

import pytest
from plain_child import PlainChild

from lit_posttrain.graders.sandbox.box import ChildBox, run_judge
from lit_posttrain.graders.sandbox.interface import End, Limits, Reply

LIMITS = Limits(cpu_s=2, wall_s=10, output_kib=64)
PROGRAM = """
import collections, os, re
class Node:
    def __init__(self, value): self.value, self.left = value, None
    def __eq__(self, other): return True
class Always:
    def __eq__(self, other): return True
    __hash__ = None
def depth(node): return 1 + depth(node.left) if node else 0
def always(*_): return Always()
def same(value): return value
def push(items, more): items.append(more); items[0].append(1)
def fill(table): table.clear(); table['b'] = {2}
def bad(name): raise eval(name)
def upto(n): yield from range(n)
def queue(n): return collections.deque(range(n))
def found(text): return re.match('a', text)
def die(): os._exit(0)
def sum(items): return 'mine'
def sorted(items): return 'hacked'
def isclose(*_): return True
class math: isclose = isclose
"""


def judged(tests, limits=LIMITS):
    box = ChildBox(PlainChild(), PROGRAM, LIMITS)

    def answer(question):
        if question.kind == "call":
            return box.call(
                question.target,
                question.arguments,
                question.keywords,
                keeps_objects=True,
                tells_arguments=True,
            )
        if question.kind == "get":
            return box.get(question.target, question.name)
        return box.set(question.target, question.name, question.arguments[0])

    try:
        return run_judge(PlainChild(), tests, answer, limits)
    finally:
        box.close()


@pytest.mark.parametrize(
    "tests",
    [
        "",
        "assert same([1, {2: (3,)}]) == [1, {2: (3,)}]",
        "n = Node(1)\nn.left = Node(2)\nassert depth(n) == 2 and n.left.value == 2",
        "a = [[]]\npush(a, 5)\nassert a == [[1], 5]",
        "inner = []\na = [inner]\npush(a, 5)\nassert inner == [1] and a[0] is inner",
        "t = {'a': 1}\nfill(t)\nassert t == {'b': {2}}",
        "try: bad('ValueError(3)')\nexcept ValueError: pass\nelse: assert False",
        "assert list(upto(3)) == [0, 1, 2]",
        "assert len(queue(3)) == 3 and list(queue(3)) == [0, 1, 2] and queue(3)[1] == 1",
        "assert found('a') and not found('b') and not queue(0) and queue(1)",
        "n = Node(1)\nassert same(n) is n and same(n) == n and n in [n]",
        "assert same(int) is int",
        "assert sum([1, 2]) == 3",  # builtins stay what they are
        "sum = __program__.sum\nassert sum([1]) == 'mine'",
        "def check(candidate):\n  assert candidate(2) == 2\ncheck(same)",
        "from random import randint\nfor _ in range(20):\n  x = randint(0, 9)\n  assert same(x) == x",
    ],
)
def test_right_programs_go_through(tests):
    assert judged(tests) == Reply(End.RETURNED)


@pytest.mark.parametrize(
    ("tests", "error"),
    [
        ("assert same(1) == 2", "AssertionError"),
        ("assert always() == 5", "AssertionError"),
        ("assert 5 == always()", "AssertionError"),
        ("assert [5] == [always()]", "AssertionError"),
        ("assert always() in [1, 2]", "AssertionError"),
        ("assert Node(1) == Node(1)", "AssertionError"),
        ("assert sorted(same([2, 1])) == [2, 1]", "AssertionError"),
        ("assert math.isclose(same(1.0), 2.0)", "AssertionError"),
        ("assert all(map(bad, ['StopIteration()'] * 3))", "StopIteration"),
        ("for _ in [1]:\n  bad('GeneratorExit()')", "GeneratorExit"),
        ("nothing(1)", "NameError"),
        ("bad('SystemExit(0)')", "SystemExit"),
        ("bad('KeyboardInterrupt()')", "KeyboardInterrupt"),
        ("bad('KeyError(1)')", "KeyError"),
        ("import sys; sys.exit(0)", "SystemExit"),
        ("bad('type(\"Odd\", (Exception,), {})()')", "Odd"),
    ],
)
def test_wrong_programs_do_not(tests, error):
    reply = judged(tests)
    assert (reply.end, reply.error) == (End.RAISED, error)


def test_a_program_that_dies_ends_the_tests_whatever_they_catch():
    reply = judged("try: die()\nexcept BaseException: pass")
    assert reply.end is End.DIED


@pytest.mark.parametrize("depth", [97, 98, 99, 100, 101, 102, 103])
def test_an_answer_too_deep_to_hand_on_is_the_programs_fault(depth):
    data = '["l","returned",' + '["l",' * depth + "1" + "]" * depth + ',["t"],"",""]\\n'
    source = f"import os, time\ndef f():\n  os.write(3, b'{data}')\n  time.sleep(9)"
    box = ChildBox(PlainChild(), source, LIMITS)

    def answer(question):
        return box.get("f") if question.kind == "get" else box.call("f", keeps_objects=True)

    reply = run_judge(PlainChild(), "assert f() == 1", answer, LIMITS)
    box.close()
    assert (reply.end, reply.error) in [(End.RAISED, "AssertionError"), (End.PROTOCOL_ERROR, "")]


def test_what_cannot_be_handed_over_is_ours():
    reply = judged("assert same(lambda: 1)")
    assert (reply.end, reply.error) == (End.SANDBOX_ERROR, "CannotAsk")


def test_tests_that_never_end_are_timeouts():
    assert judged("while same(1): pass", Limits(wall_s=1)).end is End.TIMEOUT
