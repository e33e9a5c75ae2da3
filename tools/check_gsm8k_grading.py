"""Checks the grader of GSM8K on real worked answers: `python tools/check_gsm8k_grading.py DIR`.

DIR holds {train,test,model_solutions}.jsonl.gz: rows with `question` and `answer` (a worked answer that ends
in `#### number`), and for the last file with solutions of four models, each labelled `is_correct`.
"""

import argparse
import gzip
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lit_posttrain.batches import Completion, Grade, Problem, StopReason
from lit_posttrain.contracts import Grader
from lit_posttrain.graders import MathAnswer, NumericMatch, grade_all

LEAST_AGREEMENT = 0.995
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
GRADERS = {"NumericMatch": NumericMatch(markers=("####", "A:")), "MathAnswer": MathAnswer()}


@dataclass(frozen=True)
class Labelled:
    """A text to grade against a gold answer, and whether people said that it is right."""

    uid: str
    gold: str
    text: str
    is_correct: bool


@dataclass(frozen=True)
class Agreement:
    """How many grades agree with the labels, and the rows where they do not."""

    rows: int
    seconds: float
    disagreements: list[tuple[Labelled, Grade]]

    @property
    def share(self) -> float:
        return 1 - len(self.disagreements) / self.rows


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a compressed JSON-lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def references(folder: Path) -> list[Labelled]:
    """The worked answers of train and test, all of them right."""
    found = [row for split in ("train", "test") for row in rows(folder / f"{split}.jsonl.gz")]
    return [Labelled(row["id"], _after(row["answer"], "####"), row["answer"], True) for row in found]


def solutions(folder: Path) -> list[Labelled]:
    """The solutions of the four models to test questions, with their labels."""
    return [
        Labelled(
            f"{row['id']}/{model}",
            _after(row["ground_truth"], "A:"),
            row[model]["solution"],
            row[model]["is_correct"],
        )
        for row in rows(folder / "model_solutions.jsonl.gz")
        for model in MODELS
    ]


def agreement(grader: Grader, labelled: list[Labelled]) -> Agreement:
    """Grades every text and compares with its label."""
    nothing = torch.zeros(0)
    items = [
        (Problem((), row.gold, row.uid), Completion(nothing.long(), nothing, StopReason.EOS, row.text))
        for row in labelled
    ]
    start = time.perf_counter()
    grades = grade_all(grader, items, deadline_s=300)
    seconds = time.perf_counter() - start
    differing = [(row, g) for row, g in zip(labelled, grades, strict=True) if g.correct is not row.is_correct]
    return Agreement(len(labelled), seconds, differing)


def _after(text: str, marker: str) -> str:
    return text.rpartition(marker)[2].strip()


def _report(name: str, found: Agreement) -> None:
    agreeing = found.rows - len(found.disagreements)
    rate = found.rows / found.seconds
    print(f"{name}: {agreeing} of {found.rows} grades agree ({found.share:.4%}), {rate:,.0f} a second")
    for row, grade in found.disagreements:
        said = f"{grade.verdict} {grade.answer_key!r} {grade.note}"
        print(f"  {row.uid}: gold {row.gold!r}, label {row.is_correct}, grade {said}")
        print(f"    text ends: {row.text[-120:]!r}")


def main() -> None:
    """Prints the agreement; exits with 1 if it is below the promise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    folder = parser.parse_args().folder
    is_kept = True
    for name, grader in GRADERS.items():
        worked, modelled = agreement(grader, references(folder)), agreement(grader, solutions(folder))
        _report(f"{name}, reference answers", worked)
        _report(f"{name}, model solutions", modelled)
        is_kept = is_kept and not worked.disagreements and modelled.share >= LEAST_AGREEMENT
        grader.close()
    sys.exit(0 if is_kept else 1)


if __name__ == "__main__":
    main()
