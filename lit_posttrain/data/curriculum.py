"""How problems went when they were last drawn, and which of them stay in training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lit_posttrain.contracts import Attempt, Curriculum
from lit_posttrain.errors import InputError

HARD_BELOW, EASY_ABOVE = 1 / 3, 2 / 3
"""Pass rates that divide problems into hard, middle and easy ones."""


@dataclass(frozen=True)
class NoPositiveResampling(Curriculum):
    """A problem that is solved nearly always leaves for good.

    Source: ScaleRL, Khatri et al. 2025, arXiv:2510.13786, section 3.

    Args:
        threshold: The pass rate of its latest attempt at which a problem leaves.

    Raises:
        InputError: for a threshold that no pass rate, or every one, reaches.
    """

    threshold: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise InputError(
                f"curriculum.threshold is {self.threshold}; a pass rate at which problems leave lies above 0 and is 1 "
                "at most"
            )

    def keeps(self, attempt: Attempt) -> bool:
        """Whether fewer than `threshold` of the completions that were judged are right."""
        return attempt.correct / attempt.judged < self.threshold


@dataclass
class Record:
    """All attempts at a problem: how many, their judged and right completions, and the pass rate of the latest one
    that was judged (NaN: none was)."""

    attempts: int = 0
    judged: int = 0
    correct: int = 0
    rate: float = math.nan


@dataclass(frozen=True)
class Went:
    """An attempt, and the pass rate of the one before (NaN: there was none)."""

    attempt: Attempt
    rate_before: float


class PassRates:
    """The history of every problem that was drawn, one small record each, and which have left."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.left: set[str] = set()
        self._state: dict[str, Any] | None = None

    def observe(self, attempts: Sequence[Attempt], curriculum: Curriculum | None) -> list[Went]:
        """Takes attempts in; the problems that `curriculum` does not keep leave.

        An attempt without a judged completion counts as one and changes nothing else.
        """
        went = []
        for attempt in attempts:
            record = self.records.setdefault(attempt.uid, Record())
            went.append(Went(attempt, record.rate))
            record.attempts += 1
            record.judged += attempt.judged
            record.correct += attempt.correct
            if attempt.judged:
                record.rate = attempt.correct / attempt.judged
                if curriculum is not None and not curriculum.keeps(attempt):
                    self.left.add(attempt.uid)
        self._state = None
        return went

    def to_state(self) -> dict[str, Any]:
        """Plain lists and tensors, in the order in which problems were first drawn.

        Made anew only after `observe`, since it is asked for after every optimiser step.
        """
        if self._state is None:
            records = list(self.records.values())
            self._state = {
                "uids": list(self.records),
                "attempts": torch.tensor([r.attempts for r in records], dtype=torch.int64),
                "judged": torch.tensor([r.judged for r in records], dtype=torch.int64),
                "correct": torch.tensor([r.correct for r in records], dtype=torch.int64),
                "rate": torch.tensor([r.rate for r in records], dtype=torch.float64),
                "left": torch.tensor([uid in self.left for uid in self.records], dtype=torch.bool),
            }
        return self._state

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "PassRates":
        """The inverse of `to_state`."""
        rates = cls()
        columns = (state[name].tolist() for name in ("attempts", "judged", "correct", "rate"))
        for uid, *numbers in zip(state["uids"], *columns, strict=True):
            rates.records[uid] = Record(*numbers)
        rates.left = {uid for uid, left in zip(state["uids"], state["left"].tolist(), strict=True) if left}
        return rates


def by_difficulty(went: Sequence[Went]) -> dict[str, float]:
    """Metrics: the share of right completions among the judged ones, by how hard the problems were before.

    Only of the kinds that occur; problems without an earlier pass rate are of none.
    """
    kinds: dict[str, tuple[int, int]] = {}
    for one in went:
        if math.isnan(one.rate_before) or not one.attempt.judged:
            continue
        hard, easy = one.rate_before < HARD_BELOW, one.rate_before > EASY_ABOVE
        kind = "hard" if hard else "easy" if easy else "middle"
        correct, judged = kinds.get(kind, (0, 0))
        kinds[kind] = correct + one.attempt.correct, judged + one.attempt.judged
    return {
        f"rollout/pass_rate_{kind}_fraction": correct / judged for kind, (correct, judged) in kinds.items()
    }
