"""Graded completions with where they came from, and their rows in a pool (`pools.py`)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from lit_posttrain.batches import Answer, Completion, Grade, Problem, StopReason, Verdict
from lit_posttrain.errors import InputError
from lit_posttrain.keys import digest


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


def _json(value: Any, uid: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError as error:
        raise InputError(
            f"messages and reference of problem {uid!r} must be JSON values to stand in a pool: {error}"
        ) from error
