"""The file of graded completions that `predict` writes."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_posttrain.batches import Answer
from lit_posttrain.errors import InputError


def rows_of(prompt: str, answers: Sequence[Answer], chosen: int | None) -> list[dict[str, Any]]:
    """One row per completion of a problem, plain values only.

    `mean_logprob_nats` is None for a completion without tokens; `chosen` says whether the strategy stands by
    it, None where all count alike.
    """
    rows = []
    for number, answer in enumerate(answers):
        completion, grade = answer.completion, answer.grade
        tokens = len(completion.tokens)
        rows.append(
            {
                "uid": answer.problem.uid,
                "source": answer.problem.source,
                "sample": number,
                "prompt": prompt,
                "completion": completion.text,
                "tokens": tokens,
                "reward": grade.reward,
                "parts": dict(grade.parts),
                "correct": grade.correct,
                "verdict": grade.verdict.value,
                "answer_key": grade.answer_key,
                "stop": completion.stop.value,
                "mean_logprob_nats": float(completion.logprobs.double().mean()) if tokens else None,
                "chosen": None if chosen is None else number == chosen,
                "note": grade.note,
            }
        )
    return rows


class PredictionFile:
    """Appends rows to a JSON-lines file, so that an interrupted run keeps what it has.

    Args:
        path: Ends in `.jsonl`, or in `.parquet`: then rows go to a `.jsonl` beside it until `finish`.

    Raises:
        InputError: for another ending, or if the file is there already.
    """

    def __init__(self, path: str | Path) -> None:
        wanted = Path(path)
        if wanted.suffix not in (".jsonl", ".parquet"):
            raise InputError(f"output is {str(path)!r}; it must end in .jsonl or .parquet.")
        self.path, self.lines = wanted, wanted.with_suffix(".jsonl")
        for file in {self.path, self.lines}:
            if file.exists():
                raise InputError(f"{file} is there already; choose another output, or move it away.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.lines.touch(exist_ok=False)
        self.rows = 0

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Appends rows; they survive the death of this process as soon as this returns."""
        text = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
        with self.lines.open("a", encoding="utf-8") as file:
            file.write(text)
        self.rows += len(rows)

    def finish(self) -> Path:
        """Makes the Parquet file if one is wanted, and returns the path of the result."""
        if self.path != self.lines:
            to_parquet(self.lines, self.path)
            self.lines.unlink()
        return self.path


def to_parquet(lines: Path, path: Path) -> None:
    """Writes a file of prediction rows as Parquet; `parts` becomes a map of text to number."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, whole, number, flag = pa.string(), pa.int64(), pa.float64(), pa.bool_()
    schema = pa.schema(
        [
            *[(name, text) for name in ("uid", "source", "prompt", "completion", "verdict", "answer_key")],
            *[(name, text) for name in ("stop", "note")],
            *[(name, whole) for name in ("sample", "tokens")],
            *[(name, number) for name in ("reward", "mean_logprob_nats")],
            *[(name, flag) for name in ("correct", "chosen")],
            ("parts", pa.map_(text, number)),
        ]
    )
    with lines.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    for row in rows:
        row["parts"] = [(name, value) for name, value in row["parts"].items() if math.isfinite(value)]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
