"""What a rollout was like, by the names of `names.py`."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_posttrain.batches import OUTAGE_VERDICTS, Answer, StopReason
from lit_posttrain.objectives.advantages import informative_groups


def rollout_metrics(
    answers: list[list[Answer]], rewards: Tensor, graded: Tensor, lowest: float
) -> dict[str, float]:
    """Lengths, ends, verdicts and rewards of P groups of G completions; means are over graded ones.

    Args:
        answers: The groups.
        rewards: (P, G), 0 where there is none.
        graded: (P, G) bool.
        lowest: The reward of a wrong answer.
    """
    flat = [answer for group in answers for answer in group]
    informative = informative_groups(rewards, graded)
    settled = ~informative & graded.any(dim=1)
    values = rewards[graded]
    correct = [float(answer.grade.correct) for answer in flat if answer.grade.correct is not None]
    first = torch.where(graded, rewards, torch.full_like(rewards, -torch.inf)).amax(dim=1)
    metrics = {
        "rollout/length_mean_tokens": sum(len(a.completion.tokens) for a in flat) / len(flat),
        "rollout/truncated_fraction": sum(a.completion.stop is StopReason.LENGTH for a in flat) / len(flat),
        "rollout/ungraded_fraction": 1 - float(graded.float().mean()),
        "rollout/informative_fraction": float(informative.float().mean()),
        "rollout/solve_none_fraction": float((settled & (first <= lowest)).float().mean()),
        "rollout/solve_all_fraction": float((settled & (first > lowest)).float().mean()),
    }
    if len(values):
        metrics["reward/mean"] = float(values.mean())
        metrics["reward/standard_deviation"] = float(values.std(unbiased=False))
    if correct:
        metrics["reward/correct_fraction"] = sum(correct) / len(correct)
    return metrics | verdict_fractions(flat) | _part_means(flat)


def verdict_fractions(answers: Sequence[Answer]) -> dict[str, float]:
    """The share of completions with each verdict, as `grading/<verdict>_fraction`; together they make 1.

    A verdict that does not occur has no line, with one exception: what stands for a failure of ours is 0 in
    every rollout, so that its absence can be told from not having looked.
    """
    counts = Counter(answer.grade.verdict for answer in answers)
    told = sorted(counts.keys() | OUTAGE_VERDICTS)
    return {f"grading/{verdict}_fraction": counts[verdict] / len(answers) for verdict in told}


def _part_means(flat: list[Answer]) -> dict[str, float]:
    graded = [answer.grade.parts for answer in flat if answer.grade.reward is not None]
    parts = {name for grade in graded for name in grade}
    return {
        f"reward/{name}": sum(g[name] for g in graded if name in g) / max(1, sum(name in g for g in graded))
        for name in parts
    }
