"""From graded samples of held-out problems to the metrics of one point of an S-curve."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lit_posttrain.batches import Answer, StopReason
from lit_posttrain.metrics import accuracy_statistics, majority_at_k, over_problems, pass_at_k


@dataclass(frozen=True)
class ProblemResult:
    """What the samples of one problem came to; small enough to be sent between ranks.

    `correct`, `rewards` and `answer_keys` have one entry per sample; None is unknown. `logprob_nats` is the
    sum over the samples' tokens.
    """

    uid: str
    source: str
    correct: tuple[bool | None, ...]
    rewards: tuple[float | None, ...]
    answer_keys: tuple[str | None, ...]
    tokens: int
    truncated: int
    logprob_nats: float

    @property
    def judged(self) -> list[bool]:
        """The samples that were found right or wrong."""
        return [correct for correct in self.correct if correct is not None]


def result_of(answers: Sequence[Answer]) -> ProblemResult:
    """The result of one problem from its answers."""
    completions = [answer.completion for answer in answers]
    grades = [answer.grade for answer in answers]
    return ProblemResult(
        uid=answers[0].problem.uid,
        source=answers[0].problem.source,
        correct=tuple(grade.correct for grade in grades),
        rewards=tuple(grade.reward for grade in grades),
        answer_keys=tuple(grade.answer_key for grade in grades),
        tokens=sum(len(completion.tokens) for completion in completions),
        truncated=sum(completion.stop is StopReason.LENGTH for completion in completions),
        logprob_nats=math.fsum(float(completion.logprobs.double().sum()) for completion in completions),
    )


def point_metrics(
    results: Sequence[ProblemResult], *, pass_at: Sequence[int] = (), majority_at: Sequence[int] = ()
) -> dict[str, float]:
    """The `scurve/*` metrics of a point but for its compute; what cannot be known is left out.

    Args:
        results: One per problem, all with the same number of samples drawn.
        pass_at: k of each pass@k wanted.
        majority_at: k of each majority@k wanted.
    """
    samples = sum(len(result.correct) for result in results)
    tokens = sum(result.tokens for result in results)
    values = _accuracy(results) | _reward(results)
    values |= {
        "samples_per_problem": len(results[0].correct),
        "ungraded_count": sum(reward is None for result in results for reward in result.rewards),
        "truncated_fraction": sum(result.truncated for result in results) / samples,
        "length_mean_tokens": tokens / samples,
    }
    if tokens:
        values["entropy_nats"] = -math.fsum(result.logprob_nats for result in results) / tokens
    for k in pass_at:
        values |= _at_k(f"pass_at_{k}", [_pass_at(result, k) for result in results])
    for k in majority_at:
        values |= _at_k(f"majority_at_{k}", [_majority_at(result, k) for result in results])
    return {f"scurve/{name}": value for name, value in values.items() if math.isfinite(value)}


def _accuracy(results: Sequence[ProblemResult]) -> dict[str, float]:
    found = accuracy_statistics([sum(r.judged) for r in results], [len(r.judged) for r in results])
    if not found.problems:
        return {}
    return {
        "accuracy": found.accuracy,
        "standard_error": found.standard_error,
        "standard_error_fixed": found.standard_error_fixed,
        "within_variance": found.within_variance,
        "problems": found.problems,
        "correct_count": found.correct,
    }


def _reward(results: Sequence[ProblemResult]) -> dict[str, float]:
    graded = [[reward for reward in result.rewards if reward is not None] for result in results]
    found = over_problems([math.fsum(rewards) / len(rewards) for rewards in graded if rewards])
    return {"reward": found.mean, "reward_standard_error": found.standard_error}


def _pass_at(result: ProblemResult, k: int) -> float | None:
    judged = result.judged
    return pass_at_k(len(judged), sum(judged), k) if len(judged) >= k else None


def _majority_at(result: ProblemResult, k: int) -> float | None:
    pairs = zip(result.answer_keys, result.correct, strict=True)
    votes = [(key, correct) for key, correct in pairs if correct is not None]
    if len(votes) < k:
        return None
    return majority_at_k([key for key, _ in votes], [correct for _, correct in votes], k)


def _at_k(name: str, values: Sequence[float | None]) -> dict[str, float]:
    found = over_problems([value for value in values if value is not None])
    return {name: found.mean, f"{name}_standard_error": found.standard_error}


def counts_record(results: Sequence[ProblemResult], **about: Any) -> str:
    """The counts of every problem as JSON, a column each, with what is said `about` the point.

    Columns: `uid`, `source`, `samples` drawn, `graded` (right or wrong known), `correct`, `reward` (mean,
    null where there is none).
    """
    columns = {
        "uid": [r.uid for r in results],
        "source": [r.source for r in results],
        "samples": [len(r.correct) for r in results],
        "graded": [len(r.judged) for r in results],
        "correct": [sum(r.judged) for r in results],
        "reward": [
            math.fsum(known) / len(known) if known else None
            for r in results
            for known in [[reward for reward in r.rewards if reward is not None]]
        ],
    }
    return json.dumps({**about, "problems": columns})
