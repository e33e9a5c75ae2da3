"""Speed and bounds of MathAnswer: `python tools/bench_math.py`; exits with 1 if a promise is broken.

Hanging answers from the main thread and from another one (seconds of wall time, peak memory of the worker; their
limit is one of CPU time, so that they take longer than promised where the machine has more to do than cores),
10,000 answers of noise and the injections (what was executed, imported, raised), and typical answers a second
on one core, beside math-verify in the same run.
"""

import argparse
import os
import runpy
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from lit_posttrain.batches import Completion, Grade, Problem, StopReason
from lit_posttrain.graders import MathAnswer

TOOLS = Path(__file__).parent
CASES = runpy.run_path(str(TOOLS.parent / "tests" / "graders" / "math_cases" / "cases.py"))
MOST_SECONDS, MOST_MIB, LEAST_RATE, NOISE, TYPICAL = 2.0, 256.0, 2_000, 10_000, 20_000
GOLDS = (r"\pi", "x+1", "7777777", r"\{1,2\}")


def grades(grader: MathAnswer, gold: str, texts: Sequence[str]) -> list[Grade]:
    """The grades of texts against one gold answer."""
    empty = torch.zeros(0)
    return grader.grade(
        [(Problem((), gold, "u"), Completion(empty.long(), empty, StopReason.EOS, t)) for t in texts]
    )


def peak_mib(grader: MathAnswer) -> float:
    """The most resident memory that a process of the living workers ever had; 0 without one."""
    groups = {worker.process.pid for worker in list(grader.judge.pool._workers)}
    peaks = [0]
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it may end while we look
            if os.getpgid(int(folder.name)) in groups:
                lines = (folder / "status").read_text().splitlines()
                peaks += [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return max(peaks) / 1024


def hangs(name: str) -> bool:
    """Grades each hanging answer, watching the workers; whether time, memory and verdicts are in bounds."""
    grader = MathAnswer()
    worst_s, worst_mib, is_over, right = 0.0, 0.0, threading.Event(), 0

    def watch() -> None:
        nonlocal worst_mib
        while not is_over.wait(0.05):
            worst_mib = max(worst_mib, peak_mib(grader))

    watcher = threading.Thread(target=watch)
    watcher.start()
    grades(grader, "x+1", [r"\boxed{1+x}"])  # a worker is up
    for answer in CASES["HANGS"]:
        start = time.perf_counter()
        found = grades(grader, r"\sqrt{2}", [rf"\boxed{{{answer}}}"])[0]
        took_s = time.perf_counter() - start
        worst_s, right = max(worst_s, took_s), right + (found.reward == 0.0)
        print(f"    {took_s:5.2f} s  {found.verdict:12s} {answer[:60]}")
    is_over.set()
    watcher.join()
    grader.close()
    count = len(CASES["HANGS"])
    print(
        f"{name}: {right} of {count} hanging answers wrong, at most {worst_s:.2f} s, worker {worst_mib:.0f} MiB"
    )
    return right == count and worst_s <= MOST_SECONDS and worst_mib <= MOST_MIB


def in_thread(task: Callable[[], bool]) -> bool:
    """Runs a task in a thread of its own."""
    said = list[bool]()
    thread = threading.Thread(target=lambda: said.append(task()))
    thread.start()
    thread.join()
    return said == [True]


def hostile_texts() -> bool:
    """Grades noise and injections in an empty folder; whether nothing was executed, imported or raised."""
    grader, before = MathAnswer(workers=1), set(sys.modules)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        marker = Path(folder) / "marker"
        answers = [template.format(marker=marker) for template in CASES["INJECTIONS"]]
        texts = [rf"\boxed{{{answer}}}" for answer in answers] + [
            f"The answer is {answer}" for answer in answers
        ]
        made = 0
        for gold, share in zip(GOLDS, (4, 4, 1, 1), strict=True):
            found = grades(grader, gold, texts + list(CASES["noise"](NOISE * share // 10, share)))
            made += sum(grade.reward is not None for grade in found)
        refused = grader.judge.refused_acts()
        left = list(Path(folder).iterdir())
        os.chdir(TOOLS)
    imported = set(sys.modules) - before
    grader.close()
    print(
        f"{made} hostile answers graded; files made {left}, refused acts {refused}, imported here {imported or 'none'}"
    )
    return not left and not refused and not imported and made == NOISE + len(GOLDS) * len(texts)


def speed() -> bool:
    """Typical answers a second in this thread, each text new, beside math-verify."""
    check = runpy.run_path(str(TOOLS / "check_math_grading.py"))
    forms = ("So he has {} apples.\n#### {}", r"Thus \boxed{{{}}} of {}.", "That makes {}. The answer is {}.")
    texts = [forms[i % 3].format(i, i) for i in range(TYPICAL)]
    work = "She sells 16 - 3 - 4 = <<16-3-4=9>>9 duck eggs a day.\nShe makes 9 * 2 = $18.\n" * 3
    grader = MathAnswer()
    start = time.process_time()
    found = grades(grader, "17", [work + text for text in texts])
    ours = TYPICAL / (time.process_time() - start)
    start = time.process_time()
    for text in texts[:300]:
        check["math_verify"]("17", work + text)
    theirs = 300 / (time.process_time() - start)
    grader.close()
    print(f"typical answers a second of one core: MathAnswer {ours:,.0f}, math-verify {theirs:,.0f}")
    return ours >= LEAST_RATE and sum(grade.correct is True for grade in found) == 1


def main() -> None:
    """Measures everything; exits with 1 if a promise is broken."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    kept = [hangs("main thread"), in_thread(lambda: hangs("another thread")), speed(), hostile_texts()]
    sys.exit(0 if all(kept) else 1)


if __name__ == "__main__":
    main()
