"""What a rollout was like, by the names of `names.py`."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_posttrain.batches import OUTAGE_VERDICTS, Answer, StopReason
from lit_posttrain.objectives.advantages import effective_samples, informative_groups


def rollout_metrics(
    answers: list[list[Answer]], rewards: Tensor, graded: Tensor, lowest: float
) -> dict[str, float]:
    """Lengths, ends, verdicts and rewards of P groups of G completions; means of rewards are over graded ones.

    Args:
        answers: The groups; with their advantages, where these are known by now.
        rewards: (P, G), 0 where there is none.
        graded: (P, G) bool.
        lowest: The reward of a wrong answer.
    """
    flat = [answer for group in answers for answer in group]
    told = _signal(rewards, graded, lowest) | _rewards(rewards, graded)
    correct = [float(answer.grade.correct) for answer in flat if answer.grade.correct is not None]
    if correct:
        told["reward/correct_fraction"] = sum(correct) / len(correct)
    advantages = [answer.advantage for answer in flat if answer.advantage is not None]
    if advantages:
        told["rollout/effective_samples"] = float(effective_samples(torch.tensor(advantages)))
    return told | _lengths(flat) | verdict_fractions(flat) | _parts(flat)


def _lengths(flat: Sequence[Answer]) -> dict[str, float]:
    """How long completions are, and how they end; of those that ended by themselves only if there are some."""
    lengths = [len(answer.completion.tokens) for answer in flat]
    cut = [answer.completion.stop is StopReason.LENGTH for answer in flat]
    marks = [answer.completion.injected for answer in flat]
    put_in = [mark is not None and bool(mark.any()) for mark in marks]
    told = {
        "rollout/length_mean_tokens": sum(lengths) / len(flat),
        "rollout/length_min_tokens": float(min(lengths)),
        "rollout/length_max_tokens": float(max(lengths)),
        "rollout/truncated_fraction": sum(cut) / len(flat),
        "rollout/interrupted_fraction": sum(put_in) / len(flat),
    }
    alone = [not c and not p for c, p in zip(cut, put_in, strict=True)]
    finished = [length for length, is_alone in zip(lengths, alone, strict=True) if is_alone]
    if finished:
        told["rollout/finished_length_mean_tokens"] = sum(finished) / len(finished)
        told["rollout/finished_length_min_tokens"] = float(min(finished))
        told["rollout/finished_length_max_tokens"] = float(max(finished))
    return told


def _signal(rewards: Tensor, graded: Tensor, lowest: float) -> dict[str, float]:
    """How much there is to learn from."""
    informative = informative_groups(rewards, graded)
    settled = ~informative & graded.any(dim=1)
    first = torch.where(graded, rewards, torch.full_like(rewards, -torch.inf)).amax(dim=1)
    return {
        "rollout/ungraded_fraction": 1 - float(graded.float().mean()),
        "rollout/informative_fraction": float(informative.float().mean()),
        "rollout/solve_none_fraction": float((settled & (first <= lowest)).float().mean()),
        "rollout/solve_all_fraction": float((settled & (first > lowest)).float().mean()),
    }


def _rewards(rewards: Tensor, graded: Tensor) -> dict[str, float]:
    """Mean and deviation of all graded rewards, and the mean deviation of groups with two of them or more."""
    values, told = rewards[graded], dict[str, float]()
    if len(values):
        told["reward/mean"] = float(values.mean())
        told["reward/standard_deviation"] = float(values.std(unbiased=False))
    compared = [row[marks] for row, marks in zip(rewards, graded, strict=True) if int(marks.sum()) > 1]
    if compared:
        told["reward/group_standard_deviation"] = sum(float(row.std()) for row in compared) / len(compared)
    return told


def verdict_fractions(answers: Sequence[Answer]) -> dict[str, float]:
    """The share of completions with each verdict, as `grading/<verdict>_fraction`; together they make 1.

    A verdict that does not occur has no line, with one exception: what stands for a failure of ours is 0 in
    every rollout, so that its absence can be told from not having looked.
    """
    counts = Counter(answer.grade.verdict for answer in answers)
    told = sorted(counts.keys() | OUTAGE_VERDICTS)
    return {f"grading/{verdict}_fraction": counts[verdict] / len(answers) for verdict in told}


def _parts(flat: Sequence[Answer]) -> dict[str, float]:
    """Mean and deviation of each part of the reward, over the graded answers that have it."""
    values: dict[str, list[float]] = {}
    for answer in flat:
        for name, value in answer.grade.parts.items() if answer.grade.reward is not None else ():
            values.setdefault(name, []).append(float(value))
    told = {name: torch.tensor(of, dtype=torch.float64) for name, of in values.items()}
    return {f"reward/{name}": float(of.mean()) for name, of in told.items()} | {
        f"reward/{name}_standard_deviation": float(of.std(unbiased=False)) for name, of in told.items()
    }
