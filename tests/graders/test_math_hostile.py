import itertools
import os
import random
import re
import resource
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from math_cases.cases import HANGS, INJECTIONS

from lit_posttrain.batches import Verdict
from lit_posttrain.graders import MathAnswer, grade_all


@pytest.fixture(scope="module")
def grader():
    made = MathAnswer(deadline_s=0.25)
    yield made
    made.close()


FRESH = itertools.count(2)  # answers that are in no cache yet


def fresh_pair():
    number = next(FRESH)
    return rf"\boxed{{{number}+x}}", f"x+{number}"


def wait_for_a_worker(grade, grader):
    """A worker is up; on a busy machine one that was killed is not replaced at once."""
    until = time.monotonic() + 120
    while grade(grader, *fresh_pair()).correct is not True:
        assert time.monotonic() < until


@pytest.mark.parametrize("answer", HANGS)
def test_hanging_answers_are_wrong_within_the_deadline(grade, grader, answer):
    wait_for_a_worker(grade, grader)
    found = grade(grader, rf"\boxed{{{answer}}}", r"\sqrt{2}")
    assert (found.reward, found.correct) == (0.0, False)


def test_hanging_answers_from_another_thread(item, grader):
    items = [item(rf"\boxed{{{answer}}}", r"\sqrt{2}") for answer in HANGS]
    rewards = list[float | None]()
    thread = threading.Thread(target=lambda: rewards.extend(grade.reward for grade in grader.grade(items)))
    thread.start()
    thread.join()
    assert rewards == [0.0] * len(HANGS)


def test_an_answer_over_its_deadline_is_a_timeout_and_remembered(grade, grader):
    text = r"\boxed{2^{9999^{99}}}"
    wait_for_a_worker(grade, grader)
    assert grade(grader, text, r"\sqrt{2}").verdict is Verdict.TIMEOUT
    start = time.perf_counter()
    assert grade(grader, text, r"\sqrt{2}").verdict is Verdict.TIMEOUT
    assert time.perf_counter() - start < 0.1


def test_a_gold_answer_over_its_deadline_leaves_the_completion_ungraded(grade, grader):
    found = grade(grader, r"\boxed{2x}", r"2^{9999^{99}}")
    assert (found.reward, found.verdict) == (None, Verdict.GOLD_TIMEOUT)


@pytest.mark.parametrize("template", INJECTIONS)
def test_nothing_is_executed(grade, grader, template, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    marker = tmp_path / "marker"
    answer = template.format(marker=marker)
    for text in (rf"\boxed{{{answer}}}", f"The answer is {answer}", answer):
        for gold in (r"\pi", "3", "yes"):
            assert grade(grader, text, gold).correct is False
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "unit",
    [
        "1,111",
        ",111",
        " ",
        "answer ",
        "####",
        "\\boxed{",
        "\\boxed{5}",
        "$-",
        "1/",
        "{",
        "answer is \\(",
        "# ",
    ],
)
def test_long_repetitions_take_linear_time(grader, unit):
    start = time.perf_counter()
    found = grader._grade_here("7", unit * (100_000 // len(unit)))
    assert found is None or found.correct is False
    assert time.perf_counter() - start < 2.0


def test_fuzzed_answers_never_raise_and_are_never_right(item):
    chars = random.Random(0)
    alphabet = "0123456789+-*/^_{}()[]\\|.,!=<> abxyz\"'$%\n\x00\ud800\u0663" + "\u221a\u03c0\u00d7"
    texts = ["".join(chars.choices(alphabet, k=chars.randrange(1, 60))) for _ in range(1500)]
    grader = MathAnswer()
    for text in texts:
        found = grader._grade_here("7777777", rf"\boxed{{{text}}}")
        assert found is None or found.correct is False
    grader.close()


def test_grading_from_threads(item, grader):
    grades = {}

    def run(name: int) -> None:
        items = [item(rf"\boxed{{x+{i}+{name}}}", f"{name}+{i}+x") for i in range(5)]
        grades[name] = [grade.correct for grade in grader.grade(items)]

    threads = [threading.Thread(target=run, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert grades == {name: [True] * 5 for name in range(4)}


def test_killed_workers_are_replaced_and_nothing_is_lost_or_zeroed(item):
    grader = MathAnswer()
    is_over = threading.Event()

    def kill() -> None:
        for _ in range(2):
            if is_over.wait(0.1):
                return
            for worker in list(grader.judge.pool._idle) + list(grader.judge.pool._workers):
                if worker.is_alive:
                    os.kill(worker.process.pid, signal.SIGKILL)

    items = [item(rf"\boxed{{x^{{{i}}}+{i}}}", f"{i}+x^{{{i}}}") for i in range(2, 40)]
    grader.grade(items[:1])
    killer = threading.Thread(target=kill)
    killer.start()
    grades = grade_all(grader, items, deadline_s=60)
    is_over.set()
    killer.join()
    grader.close()
    assert [grade.reward for grade in grades] == [1.0] * len(items)


def test_a_busy_machine_is_not_the_models_fault(grade):
    grader = MathAnswer(deadline_s=0.2)
    grade(grader, r"\boxed{1+x}", "x+1")
    for worker in grader.judge.pool._workers:
        os.kill(worker.process.pid, signal.SIGSTOP)
    found = grade(grader, r"\boxed{1+y}", "y+1")
    assert (found.reward, found.verdict) == (None, Verdict.GRADER_TIMEOUT)
    grader.close()


def test_closing_ends_the_workers_and_a_later_call_starts_new_ones(grade):
    grader = MathAnswer()
    grade(grader, r"\boxed{1+x}", "x+1")
    [worker] = grader.judge.pool._workers
    grader.close()
    assert worker.process.poll() is not None
    assert grade(grader, r"\boxed{2+x}", "x+2").correct is True
    grader.close()


def processes_of(grader):
    """The pids of the workers and of their children."""
    groups = {worker.process.pid for worker in grader.judge.pool._workers}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.getpgid(int(folder.name)) in groups:
                yield int(folder.name)


def test_memory_stays_small(grade, grader):
    grade(grader, r"\boxed{1+x}", "x+1")
    pids = list(processes_of(grader))
    assert len(pids) >= 2
    for pid in pids:
        status = Path(f"/proc/{pid}/status").read_text()
        assert int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) < 256 * 1024
    limits = [resource.prlimit(pid, resource.RLIMIT_DATA)[0] for pid in pids]
    assert 160 << 20 in limits
