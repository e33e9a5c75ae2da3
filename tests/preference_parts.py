"""Preferences that tests of several rooms share: rows, data modules, a method on the tiny network."""

from dataclasses import dataclass
from typing import Any

import torch
from fakes import TEXT, DigitCount, Numbers, tiny

from lit_posttrain.batches import Sampling
from lit_posttrain.contracts import Drawing, ProblemSource
from lit_posttrain.data import PreferenceData, PreferenceRounds, UnpairedData
from lit_posttrain.data.formats import PreferenceRow
from lit_posttrain.data.preference_stream import PairRounds
from lit_posttrain.methods import DPOModule


@dataclass(frozen=True)
class Sums(ProblemSource):
    """The right sum of uneven numbers before a wrong one of another length, with margins."""

    count: int = 24

    def problems(self, split: str) -> list[Any]:
        return Numbers(self.count).problems(split)

    def rows(self, split: str) -> list[PreferenceRow]:
        return [self._row(i, problem) for i, problem in enumerate(self.problems(split))]

    def _row(self, i: int, problem: Any) -> PreferenceRow:
        wrong = str(int(problem.reference) * (10 if i % 3 else 1) + 1)
        prompt, sides = list(problem.messages), (problem.reference, wrong)
        chosen, rejected = ([{"role": "assistant", "content": side}] for side in sides)
        return PreferenceRow([dict(m) for m in prompt], chosen, rejected, margin=0.5 * (i % 2))


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.01)


def dpo(network: Any = None, **arguments: Any) -> DPOModule:
    """A DPO module on the tiny network, by plain SGD."""
    return DPOModule(network or tiny(), TEXT, **({"optimizer": sgd} | arguments))


def pairs(count: int = 24, **arguments: Any) -> PreferenceData:
    """Seven pairs a step."""
    return PreferenceData(Sums(count), **({"batch_pairs": 7, "validation_split": None} | arguments))


def completions(count: int = 24, **arguments: Any) -> UnpairedData:
    """Seven completions a step."""
    return UnpairedData(Sums(count), **({"batch_completions": 7, "validation_split": None} | arguments))


def preference_rounds(
    *, drawing: Drawing | None = None, packed: bool = False, **rounds: Any
) -> PreferenceRounds:
    """Three rounds of two steps on completions with more or fewer even digits."""
    settings = {"count": 3, "problems": 6, "steps": 2} | rounds
    how = drawing or Drawing(DigitCount(), Sampling(max_new_tokens=6), samples=4)
    return PreferenceRounds(Numbers(), how, PairRounds(**settings), packed=packed)
