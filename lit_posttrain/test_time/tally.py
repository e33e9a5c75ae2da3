"""Adds up graded answers to the results of a test.

Processes do not add their sums, whose last bits would depend on how many they are: each of them is given all
problems in one order and counts them itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_posttrain.batches import Answer, Grade, StopReason
from lit_posttrain.ledger import Spent
from lit_posttrain.metrics import MajorityAtK, MeanAccuracy, MeanReward, PassAtK, ProblemMean
from lit_posttrain.names import known

SUMS = ("problems", "samples", "truncated", "flops", "tokens_generated")


@dataclass(frozen=True)
class Judged:
    """What a test keeps of one problem's answers, and what processes tell each other of it.

    `chosen` is the answer that the strategy stands by, as an index; None where all count alike.
    """

    grades: list[Grade]
    stops: list[StopReason]
    chosen: int | None

    @classmethod
    def of(cls, answers: Sequence[Answer], chosen: int | None) -> "Judged":
        """From the answers to one problem."""
        return cls([a.grade for a in answers], [a.completion.stop for a in answers], chosen)

    @property
    def stood_by(self) -> list[Grade]:
        """The grades that accuracy is made of."""
        return self.grades if self.chosen is None else [self.grades[self.chosen]]


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
    """

    def __init__(self, pass_at: Sequence[int] = (), majority_at: Sequence[int] = ()) -> None:
        alone = {"sync_on_compute": False}
        self.accuracy = MeanAccuracy(**alone)
        self.means: dict[str, ProblemMean] = {"reward": MeanReward(**alone)}
        self.means |= {f"pass_at_{k}": PassAtK(k, **alone) for k in pass_at}
        self.means |= {f"majority_at_{k}": MajorityAtK(k, **alone) for k in majority_at}
        self.sums = Sums(**alone)

    def update(self, judged: Sequence[Judged]) -> None:
        """Adds problems."""
        self.accuracy.update([problem.stood_by for problem in judged])
        for metric in self.means.values():
            metric.update([problem.grades for problem in judged])
        stops = [stop for problem in judged for stop in problem.stops]
        self.sums.update(
            problems=len(judged),
            samples=len(stops),
            truncated=sum(stop is StopReason.LENGTH for stop in stops),
        )

    def results(self, spent: Spent) -> dict[str, Tensor]:
        """`test_time/*`, without what cannot be known; called once.

        Args:
            spent: What all processes spent on the test.
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
