"""Grades the worked answers of HumanEval and MBPP, and mutants of them, and compares with a plain interpreter.

    python tools/check_code_grading.py DATA_DIR [--mutants 2] [--limit N] [--cpu-s 2]

DATA_DIR holds humaneval/HumanEval.jsonl.gz and mbpp/mbpp.jsonl.gz. A worked answer that does not pass is a false
reject. A mutant has one operator of the answer changed; it must pass or fail as it does when the data set's own tests
run after it in one `python -I`, under the same limit of CPU. Mutants that these tests let through are counted apart.
A mutant of a helper that stands in the prompt may differ: the tests of HumanEval/50 call `encode_shift` of the
prompt, and are run here with the prompt's own, not with the program's.
Exit status 1 if more than 0.5 % of the answers are rejected, or the mutants agree in less than 99.5 %.
"""

import argparse
import ast
import random
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lit_posttrain.batches import Completion, Grade, Problem, StopReason
from lit_posttrain.data.sources import MBPP, HumanEval
from lit_posttrain.graders import CodeTests
from lit_posttrain.graders.sandbox.interface import Limits

MAX_REJECTED, MIN_AGREEING = 0.005, 0.995
MEMORY_BYTES = 1 << 30
WALL_FACTOR = 5
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


@dataclass(frozen=True)
class Case:
    """A program for a problem."""

    problem: Problem
    program: str

    @property
    def whole_script(self) -> str:
        """Program and tests together, as the data set means them."""
        reference: dict[str, Any] = self.problem.reference
        if reference["kind"] == "check":
            return f"{self.program}\n{reference['tests']}\ncheck({reference['entry']})\n"
        return "\n".join([self.program, reference["setup"], *reference["tests"]])

    @property
    def item(self) -> tuple[Problem, Completion]:
        """What a grader is given."""
        text = f"```python\n{self.program}\n```"
        return self.problem, Completion(
            torch.zeros(0, dtype=torch.long), torch.zeros(0), StopReason.EOS, text
        )


def answers(folder: Path, limit: int | None) -> list[Case]:
    """The worked answers of both data sets."""
    humaneval = HumanEval(str(folder / "humaneval" / "HumanEval.jsonl.gz"))
    mbpp = MBPP(str(folder / "mbpp" / "mbpp.jsonl.gz"))
    cases: list[Case] = []
    for source, splits in ((humaneval, ["test"]), (mbpp, ["test", "validation", "train"])):
        for split in splits:
            for problem, chat in zip(source.problems(split), source.chats(split), strict=True):
                cases.append(Case(problem, code_of(chat)))
    cases += [Case(problem, code_of(chat)) for problem, chat in mbpp.few_shot()]
    return cases if limit is None else random.Random(0).sample(cases, min(limit, len(cases)))


def code_of(chat: Sequence[Any]) -> str:
    """The program in the last message."""
    return chat[-1]["content"].removeprefix("```python\n").removesuffix("\n```")


def mutants(case: Case, count: int) -> Iterator[Case]:
    """Up to `count` variants with one operator changed each, drawn by the problem's name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        places = sum(1 for _ in _operators(ast.parse(case.program)))
        for place in random.Random(case.problem.uid).sample(range(places), min(count, places)):
            tree = ast.parse(case.program)
            owner, field, index = list(_operators(tree))[place]
            old = getattr(owner, field) if index is None else getattr(owner, field)[index]
            new = SWAPS[type(old)]()
            if index is None:
                setattr(owner, field, new)
            else:
                getattr(owner, field)[index] = new
            yield Case(case.problem, ast.unparse(tree))


def _operators(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp) and type(node.op) in SWAPS:
            yield node, "op", None
        elif isinstance(node, ast.Compare):
            yield from ((node, "ops", number) for number, op in enumerate(node.ops) if type(op) in SWAPS)


def plain_passes(case: Case, cpu_s: int) -> bool:
    """Whether the data set's own tests pass in a plain interpreter within the limit."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "program.py"
        file.write_text(case.whole_script)
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-W", "ignore", str(file)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=WALL_FACTOR * cpu_s,
                cwd=folder,
                preexec_fn=limit,
            )
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0


def grades_of(grader: CodeTests, cases: Sequence[Case]) -> list[Grade]:
    """The grades; prints how many of each, and the time they took."""
    started = time.monotonic()
    grades = grader.grade([case.item for case in cases])
    took_s = time.monotonic() - started
    verdicts = ", ".join(f"{verdict} {n}" for verdict, n in Counter(g.verdict for g in grades).most_common())
    print(f"  {len(cases)} programs in {took_s:.1f} s: {verdicts}", flush=True)
    return grades


def check_answers(grader: CodeTests, cases: list[Case]) -> bool:
    """Whether few enough worked answers are rejected."""
    print("worked answers")
    pairs = list(zip(cases, grades_of(grader, cases), strict=True))
    rejected = [(case, grade) for case, grade in pairs if not grade.correct]
    for case, grade in rejected:
        print(f"  REJECTED {case.problem.uid}: {grade.verdict} ({grade.note})")
    print(f"  false rejects: {len(rejected)} of {len(cases)} ({len(rejected) / len(cases):.2%})")
    return len(rejected) <= MAX_REJECTED * len(cases)


def check_mutants(grader: CodeTests, cases: list[Case], cpu_s: int) -> bool:
    """Whether enough mutants get the verdict of the plain interpreter."""
    print("mutants with one operator changed")
    grades = grades_of(grader, cases)
    started = time.monotonic()
    with ThreadPoolExecutor(2) as threads:
        plain = list(threads.map(lambda case: plain_passes(case, cpu_s), cases))
    print(f"  plain interpreter: {time.monotonic() - started:.1f} s")
    different = [
        (case, grade, passes)
        for case, grade, passes in zip(cases, grades, plain, strict=True)
        if grade.correct is not passes
    ]
    for case, grade, passes in different:
        print(
            f"  DIFFERENT {case.problem.uid}: plain {'pass' if passes else 'fail'}, here {grade.verdict} ({grade.note})"
        )
        print("    " + case.program.strip().replace("\n", "\n    "))
    agreeing = 1 - len(different) / len(cases)
    print(f"  the tests cannot tell {sum(plain)} of {len(cases)} mutants; same verdict: {agreeing:.2%}")
    return agreeing >= MIN_AGREEING


def main() -> int:
    """Runs both checks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--mutants", type=int, default=2, help="mutants of each answer")
    parser.add_argument("--limit", type=int, help="answers, drawn at random; all without it")
    parser.add_argument("--cpu-s", type=int, default=2, help="CPU seconds of a mutant")
    options = parser.parse_args()
    cases = answers(options.data, options.limit)
    grader = CodeTests()
    quick = CodeTests(limits=Limits(cpu_s=options.cpu_s, wall_s=WALL_FACTOR * options.cpu_s, memory_mib=1024))
    try:
        few_rejected = check_answers(grader, cases)
        changed = [mutant for case in cases for mutant in mutants(case, options.mutants)]
        return 0 if check_mutants(quick, changed, options.cpu_s) and few_rejected else 1
    finally:
        grader.close()
        quick.close()


if __name__ == "__main__":
    sys.exit(main())
