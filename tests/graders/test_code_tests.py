import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
import torch

from lit_posttrain.batches import Completion, Problem, StopReason, Verdict
from lit_posttrain.data.sources import MBPP, HumanEval
from lit_posttrain.errors import InputError
from lit_posttrain.graders import CodeTests
from lit_posttrain.graders.code_suite import Judged, suite_of
from lit_posttrain.graders.sandbox.box import EndedBox
from lit_posttrain.graders.sandbox.interface import End, Level, Limits, Reply, Sandbox
from lit_posttrain.graders.sandbox.local import LocalSandbox

TESTS = [{"args": [n], "expected": 2 * n} for n in (1, 2, 3, 4)]
DOUBLE = {"kind": "function", "entry": "f", "tests": TESTS, "public": [{"args": [0], "expected": 0}]}
ECHO = {"kind": "stdin", "tests": [{"stdin": f"{n}\n", "stdout": f"{2 * n}"} for n in (1, 2)]}
ASSERTS = {
    "kind": "asserts",
    "tests": ["assert f(1) == 2", "assert set(f(n) for n in (1, 2)) == {2, 4}"],
    "entry": "f",
}
TREE = {
    "kind": "asserts",
    "setup": "root = Node(1)\nroot.left = Node(2)",
    "tests": ["assert depth(root) == 2"],
    "entry": "depth",
}
CHECK = {
    "kind": "check",
    "prompt": 'import math\n\ndef helper(n):\n    return n\n\ndef f(n: int):\n    """Twice n."""\n',
    "tests": "def check(candidate):\n    for n in range(5):\n        assert candidate(n) == helper(2 * n)\n",
    "entry": "f",
}
NODE = "class Node:\n  left = None\n  def __init__(self, n): pass\n"
RIGHT = "def f(n):\n    return 2 * n\n"


@pytest.fixture(scope="module")
def sandbox():
    found = LocalSandbox(servers=2)
    try:
        found.prove()
    except InputError as reason:
        pytest.skip(str(reason))
    yield found
    found.close()


def completion(text):
    return Completion(torch.zeros(0, dtype=torch.long), torch.zeros(0), StopReason.EOS, text)


def graded(grader, reference, text):
    return grader.grade([(Problem((), reference, "u"), completion(text))])[0]


@pytest.mark.parametrize(
    ("reference", "program", "verdict"),
    [
        (DOUBLE, RIGHT, Verdict.PASS),
        (DOUBLE, "def f(n): return n", Verdict.WRONG_ANSWER),
        (DOUBLE, "def f(n): return 2.0 * n", Verdict.WRONG_ANSWER),
        (DOUBLE, "def f(n): return iter([2 * n])", Verdict.WRONG_ANSWER),
        (DOUBLE, "def f(n): raise ValueError", Verdict.RUNTIME_ERROR),
        (DOUBLE, "def g(n): return n", Verdict.RUNTIME_ERROR),
        (DOUBLE, "def f(n): exit(0)", Verdict.RUNTIME_ERROR),
        (DOUBLE, "import os\ndef f(n): os._exit(0)", Verdict.RUNTIME_ERROR),
        (DOUBLE, "def f(n): return bytearray(10**12)", Verdict.MEMORY_LIMIT),
        (DOUBLE, "def f(n): return 'x' * 10**7", Verdict.OUTPUT_LIMIT),
        (DOUBLE, "def f(n): return '\x00'", Verdict.REJECTED),
        (DOUBLE, "def f(n): return '\ud800'", Verdict.REJECTED),
        (DOUBLE, "def f(n): return chr(0xd800)", Verdict.WRONG_ANSWER),
        (DOUBLE, "", Verdict.REJECTED),
        (ECHO, "print(2 * int(input()))", Verdict.PASS),
        (ECHO, "print(int(input()))", Verdict.WRONG_ANSWER),
        (ECHO, "print(2 * int(input()))\n1/0", Verdict.RUNTIME_ERROR),
        (ASSERTS, RIGHT, Verdict.PASS),
        (ASSERTS, "def f(n): return 2", Verdict.WRONG_ANSWER),
        (TREE, NODE + "def depth(n): return 1 + depth(n.left) if n else 0", Verdict.PASS),
        (TREE, NODE + "def depth(n): return 1", Verdict.WRONG_ANSWER),
        (TREE, "def depth(n): return 2", Verdict.RUNTIME_ERROR),
        (CHECK, RIGHT, Verdict.PASS),
        (CHECK, "    return 2 * n", Verdict.PASS),
        (CHECK, "def helper(n): return 0\ndef f(n): return 0", Verdict.WRONG_ANSWER),
    ],
)
def test_verdicts(sandbox, reference, program, verdict):
    grade = graded(CodeTests(sandbox), reference, f"```python\n{program}\n```")
    assert grade.verdict is verdict, grade
    assert grade.correct is (verdict is Verdict.PASS)
    assert grade.reward == float(verdict is Verdict.PASS)
    assert grade.note.isascii()


def test_hidden_tests_decide_and_public_ones_are_told_apart(sandbox):
    half = "```python\ndef f(n): return 2 * n if n in (0, 1, 2) else -1\n```"
    grade = graded(CodeTests(sandbox), DOUBLE, half)
    assert (grade.reward, grade.correct) == (0.0, False)
    assert grade.parts == {"hidden_fraction": 0.5, "public_fraction": 1.0}
    assert graded(CodeTests(sandbox, partial=True), DOUBLE, half).reward == 0.5
    assert graded(CodeTests(sandbox, partial=True, public_weight=0.2), DOUBLE, half).reward == pytest.approx(
        0.6
    )
    assert graded(CodeTests(sandbox, public_weight=0.2), DOUBLE, half).reward == pytest.approx(0.2)


def test_tests_may_be_kept_apart(sandbox):
    counting = (
        "```python\nseen = []\ndef f(n):\n  seen.append(n)\n  return 2 * n if len(seen) < 3 else 0\n```"
    )
    assert not graded(CodeTests(sandbox), DOUBLE, counting).correct
    assert graded(CodeTests(sandbox, isolate="per_test"), DOUBLE, counting).correct


def test_time_is_bounded_over_all_tests(sandbox):
    slow = "```python\nimport time\ndef f(n):\n  time.sleep(0.3)\n  return 2 * n\n```"
    for isolate in ("program", "per_test"):
        grade = graded(CodeTests(sandbox, isolate=isolate, deadline_s=0.5, partial=True), DOUBLE, slow)
        assert grade.verdict is Verdict.TIMEOUT
        assert grade.reward < 1
    quick = CodeTests(sandbox, limits=Limits(wall_s=0.5))
    assert (
        graded(quick, DOUBLE, "```python\nwhile True: pass\ndef f(n): pass\n```").verdict is Verdict.TIMEOUT
    )


def test_tests_in_the_program_are_weak_and_say_so(sandbox):
    grader = CodeTests(sandbox, in_process_tests=True)
    cheating = "```python\nclass A:\n  def __eq__(self, other): return True\ndef f(n): return A()\n```"
    reference = ASSERTS | {"tests": ["assert f(1) == 2"]}
    weak = graded(grader, reference, cheating)
    assert (weak.correct, weak.parts["weak_integrity"], weak.note) == (True, 1.0, "integrity: weak")
    assert not graded(CodeTests(sandbox), reference, cheating).correct
    assert graded(grader, DOUBLE, f"```python\n{RIGHT}```").parts["weak_integrity"] == 0.0


def test_continuations_of_a_prompt(sandbox):
    grader = CodeTests(sandbox, continues_prompt=True)
    assert graded(grader, CHECK, "    return 2 * n\n\nprint(1/0)").correct
    assert not graded(grader, CHECK, "    return n\n").correct


@pytest.mark.parametrize(
    "reference",
    [
        None,
        "f",
        {},
        {"kind": "function", "entry": "f"},
        {"kind": "function", "entry": "f", "tests": []},
        {"kind": "function", "entry": "f", "tests": [{"args": 1, "expected": 1}]},
        {"kind": "function", "entry": "f", "tests": [{"args": [1]}]},
        {"kind": "function", "entry": "f", "tests": [{"args": [object()], "expected": 1}]},
        {"kind": "function", "entry": "f", "tests": TESTS, "compare": "loose"},
        {"kind": "stdin", "tests": [{"stdin": 1, "stdout": "1"}]},
        {"kind": "asserts", "tests": ["assert f("]},
        {"kind": "asserts", "tests": ["assert f(1)"], "entry": "a b"},
        {"kind": "check", "prompt": "def f(:", "tests": "def check(c): pass", "entry": "f"},
    ],
)
def test_broken_references_are_not_the_programs_fault(reference):
    with pytest.raises(InputError):
        suite_of(reference)
    grade = graded(CodeTests(), reference, RIGHT)  # starts nothing
    assert (grade.reward, grade.verdict) == (None, Verdict.GOLD_UNPARSEABLE)


def test_tests_that_hand_over_functions_are_broken(sandbox):
    grade = graded(
        CodeTests(sandbox), {"kind": "asserts", "tests": ["assert f(lambda: 1) == 2"], "entry": "f"}, RIGHT
    )
    assert grade.verdict is Verdict.GOLD_UNPARSEABLE


@dataclass(frozen=True)
class Failing(Sandbox):
    """Fails a number of times, and then raises in every program."""

    failures: int
    opened: list[str] = field(default_factory=list)
    level = Level.EXTERNAL

    def facts(self):
        return {}

    def open(self, source, limits):
        self.opened.append(source)
        ours = len(self.opened) <= self.failures
        return EndedBox(
            Reply(End.SANDBOX_ERROR, error="Gone") if ours else Reply(End.RAISED, error="ValueError")
        )

    def script(self, source, stdin, limits):
        raise NotImplementedError

    judge = script

    def close(self):
        pass


def test_an_outage_is_waited_for_and_never_zero():
    back = Failing(3)
    assert graded(CodeTests(back, patience_s=20), DOUBLE, RIGHT).verdict is Verdict.RUNTIME_ERROR
    assert len(back.opened) == 4
    grade = graded(CodeTests(Failing(10**9), patience_s=0.1), DOUBLE, RIGHT)
    assert (grade.reward, grade.correct, grade.verdict) == (None, None, Verdict.SANDBOX_ERROR)


def test_equal_programs_are_run_once_but_outages_again():
    sandbox = Failing(0)
    grader = CodeTests(sandbox)
    item = (Problem((), DOUBLE, "u"), completion(RIGHT))
    assert len(set(map(id, grader.grade([item] * 5)))) == 1
    grader.grade([item])
    assert len(sandbox.opened) == 1
    grader.grade([(Problem((), ECHO | {"kind": "function", "entry": "f", "tests": TESTS[:1]}, "u"), item[1])])
    assert len(sandbox.opened) == 2
    down = CodeTests(Failing(1), patience_s=0)
    assert down.grade([item])[0].verdict is Verdict.SANDBOX_ERROR
    assert down.grade([item])[0].verdict is Verdict.RUNTIME_ERROR


def test_a_single_program_is_graded_in_the_thread_that_asks():
    class Seen(Failing):
        def open(self, source, limits):
            self.opened.append(threading.current_thread())
            return EndedBox(Reply(End.RAISED))

    sandbox, program = Seen(0), completion(RIGHT)
    grader = CodeTests(sandbox, cache_size=0)
    grader.grade([(Problem((), DOUBLE, "u"), program)] * 3)
    assert sandbox.opened == [threading.current_thread()]
    grader.grade([(Problem((), DOUBLE, "u"), program), (Problem((), ASSERTS, "u"), program)])
    assert threading.current_thread() not in sandbox.opened[1:]
    assert len(sandbox.opened) == 3


def test_many_threads_get_the_grades_of_their_own_items(sandbox):
    grader = CodeTests(sandbox)
    items = [
        (Problem((), DOUBLE, "u"), completion(f"{RIGHT}# {n}\n" if n % 2 else f"def f(n): return {n}"))
        for n in range(24)
    ]
    with ThreadPoolExecutor(3) as threads:
        parts = list(threads.map(grader.grade, (items[:8], items[8:16], items[16:])))
    assert [grade.correct for part in parts for grade in part] == [bool(n % 2) for n in range(24)]


def test_graders_travel(sandbox):
    grader = pickle.loads(pickle.dumps(CodeTests(sandbox, partial=True)))
    assert grader == CodeTests(sandbox, partial=True)
    grader.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"isolate": "x"},
        {"workers": 0},
        {"deadline_s": 0},
        {"public_weight": 1},
        {"cache_size": -1},
        {"patience_s": -1},
    ],
)
def test_settings(wrong):
    with pytest.raises(InputError):
        CodeTests(**wrong)


@pytest.mark.realdata
def test_worked_answers_pass(sandbox, realdata):
    grader = CodeTests(sandbox)
    for source, split, count in (
        (HumanEval(str(realdata / "humaneval" / "HumanEval.jsonl.gz")), "test", 132),
        (MBPP(str(realdata / "mbpp" / "mbpp.jsonl.gz")), "validation", 90),
    ):
        problems, chats = source.problems(split), source.chats(split)
        items = [
            (problem, completion(chat[-1]["content"])) for problem, chat in zip(problems, chats, strict=True)
        ]
        assert len(items) == count
        assert [g.note for g in grader.grade(items) if not g.correct] == []
    kinds = [type(test) for problem in problems for test in suite_of(problem.reference).hidden]
    assert kinds.count(Judged) == 3
