"""Adds up graded answers to the results of a test, over batches and ranks."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_posttrain.batches import Answer, StopReason
from lit_posttrain.ledger import Spent
from lit_posttrain.metrics import MajorityAtK, MeanAccuracy, MeanReward, PassAtK, ProblemMean
from lit_posttrain.names import known

SUMS = ("problems", "samples", "truncated", "flops", "tokens_generated")


class Sums(Metric):
    """Named sums, float64."""

    full_state_update = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in SUMS:
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, **values: float) -> None:
        """Adds to the sums named."""
        for name, value in values.items():
            setattr(self, name, getattr(self, name) + value)

    def compute(self) -> dict[str, float]:
        """All sums."""
        return {name: float(getattr(self, name)) for name in SUMS}


class Tally:
    """The results of a test so far.

    Where a strategy stands by one answer, accuracy is that answer's; else it is the share of correct samples.

    Args:
        pass_at: k of each pass@k wanted.
        majority_at: k of each majority@k wanted.
        device: Where sums are kept, so that ranks can add them up.
    """

    def __init__(
        self, pass_at: Sequence[int] = (), majority_at: Sequence[int] = (), device: torch.device | str = "cpu"
    ) -> None:
        self.accuracy = MeanAccuracy().to(device)
        self.means: dict[str, ProblemMean] = {"reward": MeanReward().to(device)}
        self.means |= {f"pass_at_{k}": PassAtK(k).to(device) for k in pass_at}
        self.means |= {f"majority_at_{k}": MajorityAtK(k).to(device) for k in majority_at}
        self.sums = Sums().to(device)

    def update(self, answers: Sequence[Sequence[Answer]], chosen: Sequence[int | None]) -> None:
        """Adds problems: the answers to each, and which one the strategy stands by."""
        grades = [[answer.grade for answer in group] for group in answers]
        stood_by = [
            group if index is None else [group[index]] for group, index in zip(grades, chosen, strict=True)
        ]
        self.accuracy.update(stood_by)
        for metric in self.means.values():
            metric.update(grades)
        completions = [answer.completion for group in answers for answer in group]
        self.sums.update(
            problems=len(answers),
            samples=len(completions),
            truncated=sum(completion.stop is StopReason.LENGTH for completion in completions),
        )

    def results(self, spent: Spent) -> dict[str, Tensor]:
        """`test_time/*` of all ranks, without what cannot be known; collective, called once.

        Args:
            spent: What this rank spent on the test.
        """
        self.sums.update(flops=spent.flops, tokens_generated=spent.generated_tokens)
        sums = self.sums.compute()
        accuracy = self.accuracy.compute()
        values = {"accuracy": accuracy["mean"], "standard_error": accuracy["standard_error"]}
        for name, metric in self.means.items():
            found = metric.compute()
            values[name] = found["mean"]
            if name != "reward":
                values[f"{name}_standard_error"] = found["standard_error"]
        numbers = {name: sums[name] for name in ("problems", "flops", "tokens_generated")}
        if sums["samples"]:
            numbers["samples_per_problem"] = sums["samples"] / sums["problems"]
            numbers["truncated_fraction"] = sums["truncated"] / sums["samples"]
        values |= {name: torch.tensor(number, dtype=torch.float64) for name, number in numbers.items()}
        return {known(f"test_time/{name}"): value for name, value in values.items() if value.isfinite()}


def in_words(results: dict[str, Tensor]) -> str:
    """The main result as a sentence."""
    problems = int(results["test_time/problems"])
    if "test_time/accuracy" not in results:
        return f"none of the answers to {problems} problems could be told right or wrong"
    accuracy = f"accuracy {float(results['test_time/accuracy']):.4f}"
    if "test_time/standard_error" in results:
        accuracy += f" ± {float(results['test_time/standard_error']):.4f} (standard error for new problems)"
    samples = float(results["test_time/samples_per_problem"])
    return f"{accuracy}, {problems} problems, {samples:g} samples of each"
