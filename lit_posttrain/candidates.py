"""Graded completions on disk: what a candidate is, its row in a pool, and the reading of pools.

A pool is a folder of Parquet parts, one Parquet file, or a JSON-lines file with the same columns. Writing is in
`rollouts/pool.py`. A candidate that stands twice counts once; the later row is taken.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from lit_posttrain.batches import Answer, Completion, Grade, Problem, StopReason, Verdict
from lit_posttrain.errors import InputError
from lit_posttrain.keys import digest

SCHEMA_VERSION = 1
VERSION_KEY = "lit_posttrain.pool"
TEXTS = ("candidate", "parent", "uid", "source", "messages", "reference", "prompt", "completion", "stop")
GRADED = ("verdict", "answer_key", "note")
DRAWN = ("strategy", "sampling", "policy", "run_id")
WHOLES = ("sample", "samples", "tokens", "step")
NUMBERS = ("reward", "mean_logprob_nats", "flops", "seconds")
FLAGS = ("correct", "chosen")
IDS = ("prompt_ids", "token_ids")


@dataclass(frozen=True)
class Cost:
    """What one completion took: tokens drawn, and its share, by tokens, of the FLOPs and seconds of its batch."""

    tokens: int
    flops: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Origin:
    """Who drew a candidate, and how.

    Args:
        policy: Digest of the weights.
        run_id: The run that trained them, where it is known.
        step: Optimiser steps behind them, where it is known.
        strategy: Class of the strategy.
        sampling: Its settings as JSON, the number of samples apart.
    """

    policy: str
    run_id: str | None = None
    step: int | None = None
    strategy: str = "Sample"
    sampling: str = "{}"


@dataclass(frozen=True)
class Candidate:
    """One graded completion with where it came from.

    Args:
        answer: Problem, completion and grade.
        prompt_ids: The prompt as the policy read it.
        origin: Who drew it, and how.
        cost: What it took.
        sample: Its number among those of its problem, from 0.
        samples: How many were drawn for the problem together.
        prompt: The prompt as text, special tokens shown.
        chosen: Whether the strategy stands by it; None where all count alike.
        parent: uid of the candidate that it was derived from.
    """

    answer: Answer
    prompt_ids: Sequence[int]
    origin: Origin
    cost: Cost
    sample: int = 0
    samples: int = 1
    prompt: str = ""
    chosen: bool | None = None
    parent: str | None = None

    @cached_property
    def uid(self) -> str:
        """16 hex digits, the same whenever the same draw is repeated."""
        problem, origin = self.answer.problem, self.origin
        drawn = (origin.policy, origin.strategy, origin.sampling, self.sample, self.parent)
        return f"{digest(problem.source, problem.uid, *drawn) % 2**64:016x}"

    @property
    def problem_key(self) -> tuple[str, str]:
        """Source and uid of its problem."""
        return self.answer.problem.source, self.answer.problem.uid

    @property
    def mean_logprob(self) -> float | None:
        """Mean log-probability of its tokens as sampled, in nats; None without tokens."""
        logprobs = self.answer.completion.logprobs
        return float(logprobs.double().mean()) if len(logprobs) else None


def to_row(candidate: Candidate) -> dict[str, Any]:
    """A candidate as plain values, by column.

    Raises:
        InputError: if the reference of the problem is no JSON value.
    """
    answer, origin, cost = candidate.answer, candidate.origin, candidate.cost
    problem, completion, grade = answer.problem, answer.completion, answer.grade
    return {
        "candidate": candidate.uid,
        "parent": candidate.parent,
        "uid": problem.uid,
        "source": problem.source,
        "sample": candidate.sample,
        "samples": candidate.samples,
        "messages": _json([dict(message) for message in problem.messages], problem.uid),
        "reference": _json(problem.reference, problem.uid),
        "prompt": candidate.prompt,
        "prompt_ids": [int(token) for token in candidate.prompt_ids],
        "token_ids": completion.tokens.tolist(),
        "logprobs": completion.logprobs.tolist(),
        "completion": completion.text,
        "stop": completion.stop.value,
        "mean_logprob_nats": candidate.mean_logprob,
        "reward": grade.reward,
        "correct": grade.correct,
        "verdict": grade.verdict.value,
        "parts": dict(grade.parts),
        "answer_key": grade.answer_key,
        "note": grade.note,
        "chosen": candidate.chosen,
        "tokens": cost.tokens,
        "flops": cost.flops,
        "seconds": cost.seconds,
        "strategy": origin.strategy,
        "sampling": origin.sampling,
        "policy": origin.policy,
        "run_id": origin.run_id,
        "step": origin.step,
    }


def from_row(row: Mapping[str, Any]) -> Candidate:
    """The inverse of `to_row`."""
    problem = Problem(
        tuple(json.loads(row["messages"])), json.loads(row["reference"]), row["uid"], row["source"]
    )
    completion = Completion(
        torch.tensor(row["token_ids"], dtype=torch.int64),
        torch.tensor(row["logprobs"], dtype=torch.float32),
        StopReason(row["stop"]),
        row["completion"],
    )
    verdict, parts = Verdict(row["verdict"]), dict(row["parts"])
    grade = Grade(row["reward"], row["correct"], verdict, parts, row["answer_key"], row["note"])
    return Candidate(
        Answer(problem, completion, grade),
        list(row["prompt_ids"]),
        Origin(row["policy"], row["run_id"], row["step"], row["strategy"], row["sampling"]),
        Cost(row["tokens"], row["flops"], row["seconds"]),
        row["sample"],
        row["samples"],
        row["prompt"],
        row["chosen"],
        row["parent"],
    )


def arrow_schema() -> Any:
    """The columns of a part, with the version in the metadata."""
    import pyarrow as pa

    columns: list[tuple[str, Any]] = [
        *[(name, pa.string()) for name in (*TEXTS, *GRADED, *DRAWN)],
        *[(name, pa.int64()) for name in WHOLES],
        *[(name, pa.float64()) for name in NUMBERS],
        *[(name, pa.bool_()) for name in FLAGS],
        *[(name, pa.list_(pa.int32())) for name in IDS],
        ("logprobs", pa.list_(pa.float32())),
        ("parts", pa.map_(pa.string(), pa.float64())),
    ]
    return pa.schema(columns, metadata={VERSION_KEY: str(SCHEMA_VERSION)})


def read_pool(path: str | Path) -> list[Candidate]:
    """Every candidate of a pool, each once, in the order in which they were first written.

    Raises:
        InputError: if there is no pool there, a part is damaged or of another version, or a row makes no sense.
    """
    found: dict[str, Candidate] = {}
    for file in pool_files(path):
        for number, row in enumerate(rows_of(file)):
            try:
                candidate = from_row(row)
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(f"row {number} of the pool {file} is no candidate: {error!r}") from error
            found[row["candidate"]] = candidate
    return list(found.values())


def pool_files(path: str | Path) -> list[Path]:
    """The files that a pool consists of, in the order of writing.

    Raises:
        InputError: if there is none.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        parts = sorted(place.glob("part-*.parquet"))
        if not parts:
            there = ", ".join(sorted(file.name for file in place.iterdir())[:5]) or "nothing"
            raise InputError(f"the folder {place} is no pool: it has no part-*.parquet, but {there}")
        return parts
    if not place.is_file():
        raise InputError(f"there is no pool {place}; `lit-posttrain predict` writes one (model.output)")
    if place.suffix not in (".parquet", ".jsonl"):
        raise InputError(f"{place} is no pool; pools are folders or files that end in .parquet or .jsonl")
    return [place]


def rows_of(file: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of one file of a pool; all columns, or those named.

    Raises:
        InputError: if it is damaged, foreign or of another version.
    """
    if file.suffix == ".jsonl":
        yield from _lines(file)
        return
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as opened:
            check_version(opened.schema_arrow.metadata or {}, opened.schema_arrow.names, file)
            for batch in opened.iter_batches(columns=None if columns is None else list(columns)):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{file} cannot be read as Parquet ({str(error).splitlines()[0]}); it is damaged or no pool: "
            "remove it and run `predict` again, which draws what is missing"
        ) from error


def check_version(metadata: Mapping[bytes, bytes], columns: Sequence[str], file: Path) -> None:
    """
    Raises:
        InputError: for Parquet that is no pool, or a pool of another version.
    """
    found = metadata.get(VERSION_KEY.encode())
    if found is None:
        shown = ", ".join(columns[:8])
        raise InputError(
            f"{file} is Parquet, but no pool of candidates (columns {shown}); to train on other files, use "
            "the source Table"
        )
    _same_version(found.decode(), file)
    missing = set(arrow_schema().names) - set(columns)
    if missing:
        raise InputError(f"the pool {file} has no column {', '.join(sorted(missing))}; it was changed")


def _same_version(found: Any, file: Path) -> None:
    if str(found) != str(SCHEMA_VERSION):
        raise InputError(
            f"the pool {file} is of version {found}, and this code reads version {SCHEMA_VERSION}; "
            "draw it again, or read it with the release that wrote it"
        )


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            if not line.endswith("\n"):
                return  # torn by the death of its writer; its problem is drawn again
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"line {number} of {file} is no JSON: {error}") from error
            if not isinstance(row, dict) or "schema" not in row or "candidate" not in row:
                raise InputError(
                    f"line {number} of {file} is no candidate of a pool, but {line.strip()[:60]!r}"
                )
            _same_version(row["schema"], file)
            yield row


def _json(value: Any, uid: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError as error:
        raise InputError(
            f"messages and reference of problem {uid!r} must be JSON values to stand in a pool: {error}"
        ) from error
