"""Small rows of preferences, grades and steps, and the reward module that learns them."""

from dataclasses import dataclass
from typing import Any

import torch
from fakes import TEXT, tiny

from lit_posttrain.batches import Problem
from lit_posttrain.contracts import ProblemSource
from lit_posttrain.data import PreferenceData, RankedData, StepData
from lit_posttrain.data.formats import PreferenceRow, RankedRow, StepwiseRow
from lit_posttrain.methods import RewardModule
from lit_posttrain.networks import ScoreHead
from lit_posttrain.solution_steps import StepFormat


@dataclass(frozen=True)
class Rows(ProblemSource):
    """`count` rows of one kind: pairs, ranked or steps; held-out rows are others."""

    kind: str = "pairs"
    count: int = 30

    def problems(self, split: str) -> list[Problem]:
        return []

    def rows(self, split: str) -> list[Any]:
        first = 0 if split == "train" else 1000
        return [getattr(self, f"_{self.kind}")(i) for i in range(first, first + self.count)]

    def _pairs(self, i: int) -> PreferenceRow:
        return PreferenceRow(
            _user(f"{i}+{i % 7}="), _said(str(i * 3)), _said(str(i * 7 + 11) + "0" * (i % 3))
        )

    def _ranked(self, i: int) -> RankedRow:
        return RankedRow(_user(f"{i}="), [_said(str(i * k + 1)) for k in (1, 20, 300)], [1.0, 0.5, 0.0])

    def _steps(self, i: int) -> StepwiseRow:
        right = float(i % 2)
        return StepwiseRow(
            _user(f"{i}="), [f"{i}+{k}" for k in range(3)], [1.0, right, None if i % 3 else right]
        )


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def data_of(kind: str = "pairs", **settings: Any) -> Any:
    """The data module of a kind of rows, seven units a step so that parts are uneven."""
    if kind == "pairs":
        return PreferenceData(Rows(kind), **{"batch_pairs": 7, **settings})
    if kind == "ranked":
        return RankedData(Rows(kind), **{"batch_prompts": 7, **settings})
    return StepData(Rows(kind), **{"batch_solutions": 7, "steps": StepFormat("="), **settings})


TWO = ScoreHead(2)


def reward(head: ScoreHead = TWO, network: Any = None, **settings: Any) -> RewardModule:
    """A reward model on the tiny network, learning by plain SGD."""
    settings.setdefault("optimizer", lambda p: torch.optim.SGD(p, lr=0.1))
    return RewardModule(network or tiny(head=head), TEXT, **settings)
