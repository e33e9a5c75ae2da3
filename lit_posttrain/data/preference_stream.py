"""Rounds of preferences: draw with the policy, grade, pair, train on the pairs, and again.

Source: Xu et al. 2023, arXiv:2312.16682 (iterative); Guo et al. 2024, arXiv:2402.04792 (online).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from lit_posttrain.batches import PreferenceBatch, PromptBatch, TokenBatch
from lit_posttrain.candidates import Candidate
from lit_posttrain.contracts import Drawing
from lit_posttrain.data.order import EpochOrder, Portion, StepSize
from lit_posttrain.data.pair_table import PairTable
from lit_posttrain.data.pairing import BestWithWorst, Pairing, pair
from lit_posttrain.data.preferences import preference_batch
from lit_posttrain.data.steps import Cut, position_of, silent, standing
from lit_posttrain.data.unit_loader import UnitBuilder, even
from lit_posttrain.errors import InputError
from lit_posttrain.keys import digest


@dataclass(frozen=True)
class PairRounds:
    """How rounds follow each other.

    Many rounds of one step are online training, few of many steps iterative training, one is training on pairs of
    the policy at the start.

    Args:
        count: Rounds that Lightning calls an epoch; with `max_epochs: 1` those of the run.
        problems: Problems of a round, over all ranks.
        steps: Optimiser steps of a round.
        batch_pairs: Pairs per optimiser step, over all micro-batches and ranks: pairs come in random order, again
            and again if there are too few, and not all if there are too many. 0 divides those that there are among
            the steps, so that each comes once.
        pairing: Which completions of a problem are compared.
        max_redraws: How often a round without any pair is drawn again, of other problems, before the run stops.
    """

    count: int = 3
    problems: int = 1024
    steps: int = 100
    batch_pairs: int = 0
    pairing: Pairing = field(default_factory=BestWithWorst)
    max_redraws: int = 16

    def __post_init__(self) -> None:
        if min(self.count, self.problems, self.steps) < 1:
            raise InputError(f"rounds, problems and steps must be at least 1; got {self}")
        if self.batch_pairs < 0 or self.max_redraws < 0:
            raise InputError(f"batch_pairs and max_redraws are 0 or more; got {self}")


@runtime_checkable
class PreferringMethod(Protocol):
    """What the loader of a method needs that learns from pairs of its own completions."""

    reference_as_drawn: bool

    def draw(self, prompts: PromptBatch, drawing: Drawing, index: int, seed: int) -> list[Candidate]:
        """Graded completions of the current policy, problem by problem, the same on all ranks."""
        ...

    def begin_round(self, number: int) -> None:
        """Called when round `number`, from 0, has its pairs, before its first step."""
        ...

    def record(self, values: Mapping[str, float]) -> None:
        """Logs values at the current optimiser step."""
        ...

    def stop(self, reason: str) -> None:
        """Ends the training after this step, with a reason for the log."""
        ...


class PreferenceStream:
    """Yields the micro-batches of all rounds; asks the method to draw when one begins.

    It is sized, as `ExperienceStream` is, so that nothing is drawn ahead; pairs are the same on all ranks, and each
    learns from its part of every step.

    Args:
        method: Draws, and is trained.
        prompts: Gives the problems of drawing i, for any i >= 0; a function of i alone.
        drawing: How completions are drawn.
        rounds: How many, and what is paired.
        cut: How a step is cut into micro-batches.
        pad_id: Fills the room behind short sequences.
        seed: Of samples and order.
    """

    def __init__(
        self,
        method: PreferringMethod,
        prompts: Callable[[int], PromptBatch],
        drawing: Drawing,
        rounds: PairRounds,
        *,
        cut: Cut,
        pad_id: int,
        seed: int = 0,
    ) -> None:
        self.method, self.prompts, self.drawing, self.rounds = method, prompts, drawing, rounds
        self.cut, self.pad_id, self.seed = cut, pad_id, seed
        self.drawn = 0
        self.begun = 0
        self.round = 0
        self.position = 0
        self.pending: PairTable | None = None

    @property
    def per_round(self) -> int:
        """Micro-batches of one round."""
        return self.rounds.steps * self.cut.micro_batches

    def __len__(self) -> int:
        return self.rounds.count * self.per_round

    def __iter__(self) -> Iterator[TokenBatch]:
        if self.round >= self.rounds.count:
            self.round, self.position, self.pending = 0, 0, None
        while self.round < self.rounds.count:
            if self.pending is None:
                self.pending, self.position = self._collect(), 0
            if self.pending is None:
                self.method.stop(f"{self.rounds.max_redraws + 1} drawings in a row gave no pair")
                return
            for batch in self._batches(self.pending):
                self.position += 1
                if self.position == self.per_round:
                    self.round, self.position, self.pending = self.round + 1, 0, None
                yield batch

    def _batches(self, table: PairTable) -> Iterator[TokenBatch]:
        """What is left of the round, from `position` on."""
        builder = UnitBuilder(table.units(), self.cut, preference_batch, even, self.pad_id, table.logprobs)
        k, position = self.cut.micro_batches, self.position
        for number, rows in enumerate(self._steps(table)):
            if (number + 1) * k > position:
                batches = _step(builder, rows.tolist())
                yield from batches[max(0, position - number * k) :]

    def _steps(self, table: PairTable) -> Sequence[np.ndarray]:
        """The pairs of each step."""
        seed = digest(self.seed, "order", self.drawn)
        lengths, size = table.units().lengths, self.rounds.batch_pairs
        if not size:
            order = EpochOrder(lengths, StepSize(sequences=len(lengths)), seed=seed)
            return np.array_split(order.rows(0), self.rounds.steps)
        portions = [Portion(0, len(lengths), self.rounds.steps * size)]
        return EpochOrder(lengths, StepSize(sequences=size), portions=portions, seed=seed).epoch(0)

    def _collect(self) -> PairTable | None:
        """The pairs of a new round, tokenised as they were drawn; None if there are none any more.

        Raises:
            InputError: if there are none in the first round.
        """
        told = ""
        for _ in range(self.rounds.max_redraws + 1):
            number = self.drawn
            seed = digest(self.seed, "round", number)
            candidates = self.method.draw(self.prompts(number), self.drawing, number, seed)
            self.drawn += 1
            found = pair(candidates, self.rounds.pairing)
            told = found.in_words(f"round {self.begun}")
            self.method.record(found.metrics())
            rank_zero_info(told)
            if found.pairs:
                self.method.begin_round(self.begun)
                self.begun += 1
                return PairTable.of(found.pairs, logprobs=self.method.reference_as_drawn)
        if not self.begun:
            raise InputError(
                f"nothing to learn from: {told}; change the pairing, the problems, the starting network or the sampling"
            )
        return None

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, with the pairs of the round; plain tensors and numbers."""
        return {
            "drawn": self.drawn,
            "begun": self.begun,
            "round": self.round,
            "standing": standing(self.position, self.cut),
            "pending": None if self.pending is None else self.pending.to_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken, also with another number of micro-batches or ranks."""
        self.drawn, self.begun, self.round = state["drawn"], state["begun"], state["round"]
        self.position = position_of(state["standing"], self.cut)
        self.pending = None if state["pending"] is None else PairTable.from_state(state["pending"])


def _step(builder: UnitBuilder, rows: list[int]) -> list[TokenBatch]:
    """The micro-batches of a step; of one without pairs such as change nothing."""
    if rows:
        return builder.step(rows)
    batches = [silent(batch) for batch in builder.step([0])]
    for batch in batches:
        assert isinstance(batch, PreferenceBatch)
        batch.share = torch.zeros_like(batch.share)
    return batches
