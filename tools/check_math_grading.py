"""Grades the same texts with MathAnswer and math-verify: `python tools/check_math_grading.py [DATA_DIR]`.

The texts are the judged cases of tests/graders/math_cases and, where DATA_DIR is given, the answers of
DATA_DIR/gsm8k and DATA_DIR/svamp. Every disagreement is printed with who is right; exits with 1 if one is not
judged, if a judgement is about none, or if MathAnswer accepts more than 1 in 90 wrong adversarial answers.
"""

import argparse
import gzip
import json
import logging
import runpy
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from math_verify import ExprExtractionConfig, LatexExtractionConfig, StringExtractionConfig, parse, verify

from lit_posttrain.batches import Completion, Grade, Problem, StopReason
from lit_posttrain.graders import MathAnswer

CASES = runpy.run_path(str(Path(__file__).parents[1] / "tests" / "graders" / "math_cases" / "cases.py"))
JUDGED = Path(__file__).parents[1] / "tests" / "graders" / "math_cases" / "judged.txt"
FILES = ("suite.txt", "adversarial.txt")
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
MOST_FALSE_POSITIVES = 1 / 90


@dataclass(frozen=True)
class Row:
    """One text, what people say of it, and what the two graders say."""

    name: str
    gold: str
    text: str
    is_right: bool
    ours: bool | None
    theirs: bool

    @property
    def judgement(self) -> str:
        """Who is right, by the label."""
        return "MathAnswer" if self.ours is self.is_right else "math-verify"


def graded(labelled: Sequence[tuple[str, str, str, bool]]) -> tuple[list[Row], tuple[float, float]]:
    """Rows of (name, gold, text, is_right), and the seconds that MathAnswer and math-verify took."""
    grader = MathAnswer()
    items = [(Problem((), gold, name), _completion(text)) for name, gold, text, _ in labelled]
    start = time.perf_counter()
    ours: list[Grade] = grader.grade(items)
    middle = time.perf_counter()
    theirs = [math_verify(gold, text) for _, gold, text, _ in labelled]
    seconds = (middle - start, time.perf_counter() - middle)
    grader.close()
    pairs = zip(labelled, ours, theirs, strict=True)
    return [Row(*label, grade.correct, their) for label, grade, their in pairs], seconds


def math_verify(gold: str, text: str) -> bool:
    """What math-verify says by its defaults; where gold is a letter of choice, its rule for these will do too."""
    formulas = [LatexExtractionConfig(), ExprExtractionConfig()]
    if verify(parse(f"${gold}$", formulas), parse(text, formulas)):
        return True
    letter, choices = gold.strip("()$"), StringExtractionConfig(tuple("ABCDE"))
    return letter in choices.strings and verify(parse(letter, [choices]), parse(text, [choices]))


def cases() -> list[tuple[str, str, str, bool]]:
    """The judged cases, named by file and category."""
    found = [case for file in FILES for case in CASES["read"](file)]
    return [(f"{case.file}/{case.category}", case.gold, case.text, case.is_right) for case in found]


def data(folder: Path) -> Iterator[tuple[str, str, str, bool]]:
    """Worked answers and model solutions of GSM8K, and the answers of SVAMP put into a sentence."""
    for split in ("train", "test"):
        for row in _rows(folder / "gsm8k" / f"{split}.jsonl.gz"):
            yield "gsm8k/answers", row["answer"].rpartition("####")[2].strip(), row["answer"], True
    for row in _rows(folder / "gsm8k" / "model_solutions.jsonl.gz"):
        for model in MODELS:
            gold = row["ground_truth"].rpartition("A:")[2].strip()
            yield "gsm8k/solutions", gold, row[model]["solution"], row[model]["is_correct"]
    for row in _rows(folder / "svamp" / "test.jsonl.gz"):
        yield (
            "svamp",
            str(row["Answer"]),
            f"{row['Equation']} = {row['Answer']:.15g}. The answer is {row['Answer']:.15g}.",
            True,
        )


def judgements() -> dict[tuple[str, str], str]:
    """Who is right and why, by gold answer and text."""
    lines = [line.split(" ;; ") for line in JUDGED.read_text(encoding="utf-8").splitlines() if " ;; " in line]
    return {(gold, text): f"{who}: {why}" for gold, text, who, why in lines}


def report(rows: list[Row], judged: dict[tuple[str, str], str] | None) -> bool:
    """Prints agreement and disagreements of one source; whether every disagreement is judged."""
    split = [row for row in rows if row.ours is not row.theirs]
    wrong = {who: sum(getattr(row, who) is not row.is_right for row in rows) for who in ("ours", "theirs")}
    print(f"\n{rows[0].name.partition('/')[0]}: {len(rows)} texts, {len(rows) - len(split)} judged alike")
    print(f"  not as labelled: MathAnswer {wrong['ours']}, math-verify {wrong['theirs']}")
    is_complete = True
    for row in split:
        why = judged.get((row.gold, row.text)) if judged is not None else f"{row.judgement}: by the label"
        is_complete = is_complete and why is not None
        said = f"MathAnswer {row.ours}, math-verify {row.theirs}"
        print(f"  {row.name}: {row.gold!r} against {row.text[-70:]!r}: {said}; {why or 'NOT JUDGED'}")
    return is_complete


def false_positives(rows: list[Row]) -> bool:
    """Prints the errors on adversarial pairs; whether MathAnswer keeps its promise."""
    hostile = [row for row in rows if row.name.startswith("adversarial")]
    for who in ("ours", "theirs"):
        accepted = sum(getattr(row, who) is True and not row.is_right for row in hostile)
        rejected = sum(getattr(row, who) is not True and row.is_right for row in hostile)
        name = "MathAnswer" if who == "ours" else "math-verify"
        print(
            f"{name}: {accepted} false positives, {rejected} false negatives on {len(hostile)} adversarial pairs"
        )
    ours = sum(row.ours is True and not row.is_right for row in hostile)
    return ours <= MOST_FALSE_POSITIVES * len(hostile)


def main() -> None:
    """Prints everything; exits with 1 if a promise is broken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DATA_DIR", nargs="?")
    folder = parser.parse_args().folder
    logging.disable(logging.CRITICAL)
    rows, _ = graded(cases())
    judged = judgements()
    judged_files = [report([row for row in rows if row.name.startswith(file)], judged) for file in FILES]
    is_kept = false_positives(rows) and all(judged_files)
    open_cases = judged.keys() - {(row.gold, row.text) for row in rows if row.ours is not row.theirs}
    print(f"judgements about no disagreement: {sorted(open_cases) or 'none'}")
    if folder:
        rows, seconds = graded(list(data(folder)))
        for source in ("gsm8k/answers", "gsm8k/solutions", "svamp"):
            report([row for row in rows if row.name == source], None)
        rates = [f"{len(rows) / s:,.0f}" for s in seconds]
        print(
            f"\n{len(rows)} texts of GSM8K and SVAMP a second: MathAnswer {rates[0]}, math-verify {rates[1]}"
        )
    sys.exit(0 if is_kept and not open_cases else 1)


def _completion(text: str) -> Completion:
    return Completion(torch.zeros(0, dtype=torch.int64), torch.zeros(0), StopReason.EOS, text)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


if __name__ == "__main__":
    main()
