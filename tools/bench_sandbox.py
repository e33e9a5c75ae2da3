"""What the sandbox costs and whether it holds: `python tools/bench_sandbox.py [speed] [load] [attacks]`.

- `speed`: ten-test grades of a trivial program by a warm sandbox at each level, beside a fresh `python -I` each;
  under `taskset -c 0` on one core, with all that takes part.
- `load`: 2,000 honest and hostile programs on two servers against one by one: verdicts, and what is left behind.
- `attacks`: the attack suite of the tests at every level, for this user and an ordinary one, with and without a
  system call filter like Docker's.
"""

import argparse
import importlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from lit_posttrain.batches import Completion, Problem, StopReason, Verdict
from lit_posttrain.errors import InputError
from lit_posttrain.graders.code_tests import CodeTests
from lit_posttrain.graders.sandbox.local import LocalSandbox

SUITE = Path(__file__).parents[1] / "tests" / "graders" / "sandbox"
PROGRAM = "def f(n):\n    return 2 * n\n"
TESTS = [{"args": [n], "kwargs": {}, "expected": 2 * n} for n in range(1_000, 1_010)]
PROBLEM = Problem(
    ({"role": "user", "content": "Double it."},), {"kind": "function", "entry": "f", "tests": TESTS}, "f"
)
CORES = min(2, len(os.sched_getaffinity(0)))
WARM_UP = 20


def main() -> None:
    """Prints a table per part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=["speed", "load", "attacks", []], help="all without any")
    parser.add_argument("--grades", type=int, default=400, help="grades per level")
    parser.add_argument("--programs", type=int, default=2000, help="programs of the load")
    parser.add_argument(
        "--interpreter", help="Python for programs of an ordinary user; default: one that every user may run"
    )
    given = parser.parse_args()
    sys.path.insert(0, str(SUITE))
    torch.set_num_threads(1)
    if not given.parts or "speed" in given.parts:
        print_speed(given.grades)
    if not given.parts or "load" in given.parts:
        print_load(given.programs)
    if not given.parts or "attacks" in given.parts:
        print_attacks(given.interpreter)


def print_speed(grades: int) -> None:
    """Milliseconds of a grade, one after the other, and grades a second on all cores."""
    print(f"{'ten-test grade':24s} {'p50 ms':>8s} {'p99 ms':>8s} {'one by one /s':>14s} {'/s per core':>12s}")
    print_row("fresh python -I", fresh, grades // 4)
    for level in (1, 2, 3):
        sandbox = LocalSandbox(level, level, servers=CORES, i_accept_unconfined_code=level == 1)
        try:
            sandbox.facts()
        except InputError as refusal:
            print(f"level {level}: not on this machine ({refusal})")
            continue
        grader = CodeTests(sandbox, cache_size=0, workers=1)
        print_row(f"level {level}", lambda number, grader=grader: grade(grader, number), grades)
        sandbox.close()


def print_row(name: str, act: Callable[[int], None], count: int) -> None:
    """One line of the table of speeds."""
    for number in range(WARM_UP):
        act(-number)
    times_ms = sorted(timed_ms(act, number) for number in range(count))
    start_s = time.perf_counter()
    with ThreadPoolExecutor(CORES) as threads:
        list(threads.map(act, range(count)))
    together = count / (time.perf_counter() - start_s)
    alone = 1000 * count / sum(times_ms)
    p50, p99 = (times_ms[int(len(times_ms) * share)] for share in (0.5, 0.99))
    print(f"{name:24s} {p50:8.2f} {p99:8.2f} {alone:14.1f} {together / CORES:12.1f}", flush=True)


def timed_ms(act: Callable[[int], None], number: int) -> float:
    """Milliseconds of one grade."""
    start_ns = time.perf_counter_ns()
    act(number)
    return (time.perf_counter_ns() - start_ns) / 1e6


def grade(grader: CodeTests, number: int) -> None:
    """Ten tests of a program that no cache knows."""
    text = f"```python\n# {number}\n{PROGRAM}```"
    completion = Completion(torch.zeros(1, dtype=torch.int64), torch.zeros(1), StopReason.EOS, text)
    (found,) = grader.grade([(PROBLEM, completion)])
    assert found.verdict is Verdict.PASS, found


def fresh(number: int) -> None:
    """The same ten tests in a new interpreter, without any protection."""
    calls = "; ".join(f"print(f({test['args'][0]}))" for test in TESTS)
    run = subprocess.run(
        [sys.executable, "-I", "-c", f"# {number}\n{PROGRAM}\n{calls}"], capture_output=True, check=True
    )
    assert [int(line) for line in run.stdout.split()] == [test["expected"] for test in TESTS]


def print_load(count: int) -> None:
    """Side by side on two servers against one by one on one, and what is there before and after."""
    grades, mixed = (importlib.import_module(f"attacks.{name}") for name in ("grading", "mixed"))
    programs = mixed.mixed(count)
    before = remains()
    together, alone = LocalSandbox(servers=CORES), LocalSandbox(servers=1)
    start_s = time.perf_counter()
    side_by_side = [found.verdict for found in grades.grades(programs, together, None, grades.PATIENT)]
    between_s = time.perf_counter()
    one_by_one = [grades.grades([program], alone, None, grades.PATIENT)[0].verdict for program in programs]
    end_s = time.perf_counter()
    together.close()
    alone.close()
    time.sleep(0.5)
    flips = [
        (p.name, *pair)
        for p, *pair in zip(programs, side_by_side, one_by_one, strict=True)
        if pair[0] != pair[1]
    ]
    wrong = [(p.name, v) for p, v in zip(programs, side_by_side, strict=True) if v not in p.verdicts]
    print(
        f"\n{count} mixed programs at level {together.facts()['sandbox.level']}: {between_s - start_s:.1f} s on "
        f"{CORES} servers, {end_s - between_s:.1f} s one by one; verdict flips {len(flips)}, wrong {len(wrong)}"
    )
    print(
        "left behind: " + ", ".join(f"{name} {len(now - was)}" for name, now, was in compared(before)),
        flush=True,
    )
    for line in (
        *flips,
        *wrong,
        *((name, *sorted(now - was)) for name, now, was in compared(before) if now - was),
    ):
        print("  ", *line)


def compared(before: dict[str, set[str]]) -> list[tuple[str, set[str], set[str]]]:
    """What there is now and was before, by kind."""
    return [(name, now, before[name]) for name, now in remains().items()]


def remains() -> dict[str, set[str]]:
    """Processes below this one, its descriptors, and files where programs might leave some."""
    tasks = list(Path("/proc/self/task").iterdir())
    descriptors = {f"{fd.name} {link(fd)}" for fd in Path("/proc/self/fd").iterdir()}
    return {
        "processes": {child for task in tasks for child in (task / "children").read_text().split()},
        "descriptors": {text for text in descriptors if not text.endswith("/fd")},
        "files": {
            f"{folder}/{name}"
            for folder in (tempfile.gettempdir(), "/dev/shm")
            for name in os.listdir(folder)
        },
    }


def link(path: Path) -> str:
    """What a descriptor is open on; the listing's own is gone by then."""
    try:
        return os.readlink(path)
    except OSError:
        return "/fd"


def print_attacks(interpreter: str | None) -> None:
    """A line per level, user and filter, and a summary."""
    print(
        f"\n{'attack suite':36s} {'programs':>8s} {'forged':>7s} {'escapes':>8s} {'wrong':>6s} {'left':>5s} {'s':>6s}"
    )
    totals = [0, 0, 0, 0, 0]
    for name, setting in settings(interpreter).items():
        (found,) = run_suite([setting])
        if found["skipped"]:
            print(f"{name:36s} not on this machine: {found['skipped'][:200]}")
            continue
        counts = [found["programs"], *(len(found[key]) for key in ("forged", "escapes", "wrong", "left"))]
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        print(line_of(name, counts) + f" {found['seconds']:6.1f}")
        for line in (*found["escapes"], *found["wrong"], *found["left"]):
            print("  ", line)
        sys.stdout.flush()
    print(line_of("all", totals))


def line_of(name: str, counts: Sequence[int]) -> str:
    """A line of the table of attacks: programs, forged, escapes, wrong, left."""
    return f"{name:36s} {counts[0]:8d} {counts[1]:7d} {counts[2]:8d} {counts[3]:6d} {counts[4]:5d}"


def settings(interpreter: str | None) -> dict[str, dict[str, object]]:
    """What the suite is run with, by name: see `attacks.suite.Setting`."""
    users: list[tuple[str, dict[str, object]]] = [("", {})]
    interpreter = interpreter or importlib.import_module("attacks.world").interpreter_for_all()
    if os.geteuid() == 0 and interpreter is None:
        print("not as nobody: no Python that every user may run; give --interpreter")
    elif os.geteuid() == 0:
        users.append((" as nobody", {"as_nobody": True, "interpreter": interpreter}))
    found: dict[str, dict[str, object]] = {}
    for user, by in users:
        for level in (2, 3):
            found[f"level {level}{user}"] = {"level": level, **by}
            found[f"level {level}{user}, 200 mutants"] = {"level": level, "mutations": 200, **by}
        found[f"level 2{user}, Docker's filter"] = {"level": 2, "filtered": True, **by}
        found[f"level 2{user}, filter, 200 mutants"] = {"level": 2, "filtered": True, "mutations": 200, **by}
    return found


def run_suite(chosen: Sequence[dict[str, object]]) -> list[dict[str, list[str]]]:
    """The suite's outcomes; it runs apart, with a planted secret in its environment."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(SUITE),
        "PLANTED_API_KEY": f"planted-{secrets.token_hex(16)}",
    }
    command = [sys.executable, "-m", "attacks.suite", json.dumps(list(chosen))]
    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, start_new_session=True, check=True)
    return json.loads(run.stdout)


if __name__ == "__main__":
    main()
