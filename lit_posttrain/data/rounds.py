"""Expert iteration: sample with the policy, keep what is good, train on it, and again.

Source: Anthony et al. 2017, arXiv:1705.08439; Zelikman et al. 2022 (STaR, here without rationalisation),
arXiv:2203.14465; Singh et al. 2023 (ReST-EM), arXiv:2312.06585.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lit_posttrain.batches import PromptBatch, TokenBatch
from lit_posttrain.candidates import Candidate
from lit_posttrain.contracts import Drawing, DrawingMethod, Selection
from lit_posttrain.data.loader import TokenLoader
from lit_posttrain.data.order import EpochOrder, Portion, StepSize
from lit_posttrain.data.selection import AtMost, Finished, OnlyCorrect, select
from lit_posttrain.data.steps import Cut, position_of, standing
from lit_posttrain.data.token_table import TokenTable, counts_of
from lit_posttrain.errors import InputError
from lit_posttrain.keys import digest


@dataclass(frozen=True)
class Rounds:
    """How rounds follow each other.

    Args:
        count: Rounds that Lightning calls an epoch; with `max_epochs: 1` those of the run.
        problems: Problems of a round, over all ranks.
        steps: Optimiser steps of a round, however many completions are kept: these come in random order, again
            and again.
        batch_sequences: Completions per optimiser step, over all micro-batches and ranks.
        keep: Rules, applied in this order to the completions of each problem.
        begin: What a round's training begins with: the `start` of the run, so that errors do not pile up and
            only the data get better (STaR), or the `current` policy, which goes on. The optimiser begins anew
            with the former and goes on with the latter; the schedule always goes on.
    """

    count: int = 3
    problems: int = 1024
    steps: int = 100
    batch_sequences: int = 64
    keep: list[Selection] = field(default_factory=lambda: [OnlyCorrect(), Finished(), AtMost(4)])
    begin: Literal["start", "current"] = "start"

    def __post_init__(self) -> None:
        sizes = (self.count, self.problems, self.steps, self.batch_sequences)
        if min(sizes) < 1:
            raise InputError(f"rounds, problems, steps and batch_sequences must be at least 1; got {self}")
        if self.begin not in ("start", "current"):
            raise InputError(f"begin={self.begin!r}; a round begins with 'start' or 'current'")


class RoundStream:
    """Yields the micro-batches of all rounds; asks the module to draw when one begins.

    It is sized, as `ExperienceStream` is, so that nothing is drawn ahead; completions are the same on all ranks,
    and each learns from its part of every step.

    Args:
        method: Draws, and is trained.
        prompts: Gives the problems of round i, for any i >= 0; a function of i alone.
        drawing: How completions are drawn.
        rounds: How many, and what is kept.
        cut: How a step is cut into micro-batches.
        pad_id: Fills the room behind short sequences.
        seed: Of samples and order.
    """

    def __init__(
        self,
        method: DrawingMethod,
        prompts: Callable[[int], PromptBatch],
        drawing: Drawing,
        rounds: Rounds,
        *,
        cut: Cut,
        pad_id: int,
        seed: int = 0,
    ) -> None:
        self.method, self.prompts, self.drawing, self.rounds = method, prompts, drawing, rounds
        self.cut, self.pad_id, self.seed = cut, pad_id, seed
        self.drawn = 0
        self.round = 0
        self.position = 0
        self.pending: TokenTable | None = None

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
                self.method.stop(f"none of the completions of round {self.drawn - 1} was kept")
                return
            for batch in self._batches(self.pending):
                self.position += 1
                if self.position == self.per_round:
                    self.round, self.position, self.pending = self.round + 1, 0, None
                yield batch

    def _batches(self, table: TokenTable) -> Iterator[TokenBatch]:
        """What is left of the round, from `position` on."""
        draws = self.rounds.steps * self.rounds.batch_sequences
        order = EpochOrder(
            table.lengths,
            StepSize(sequences=self.rounds.batch_sequences),
            portions=[Portion(0, len(table), draws)],
            seed=digest(self.seed, "order", self.drawn),
        )
        loader = TokenLoader(table, order, cut=self.cut, weighting=self.method.weighting, pad_id=self.pad_id)
        loader.position = self.position
        return iter(loader)

    def _collect(self) -> TokenTable | None:
        """The kept completions of a new round, tokenised as they were drawn; None if there are none any more.

        Raises:
            InputError: if the first round has none.
        """
        number = self.drawn
        seed = digest(self.seed, "round", number)
        candidates = self.method.draw(self.prompts(number), self.drawing, number, seed)
        kept = select(candidates, self.rounds.keep)
        told = kept.in_words(f"round {number}")
        self.method.record({"rollout/kept_fraction": len(kept.candidates) / max(1, kept.came)})
        if not kept.candidates and number == 0:
            raise InputError(
                f"nothing to learn from: {told}; change the rules, the problems, the starting network or the sampling"
            )
        _tell(told)
        self.drawn += 1
        if not kept.candidates:
            return None
        if number > 0 and self.rounds.begin == "start":
            self.method.restart()
        return table_of(kept.candidates)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, with what is kept of the round; plain tensors and numbers."""
        table = self.pending
        return {
            "drawn": self.drawn,
            "round": self.round,
            **standing(self.position, self.cut),
            "pending": None if table is None else to_state(table),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken, also with another number of micro-batches or ranks."""
        self.drawn, self.round = state["drawn"], state["round"]
        self.position = position_of(state, self.cut)
        self.pending = None if state["pending"] is None else from_state(state["pending"])


def table_of(candidates: list[Candidate]) -> TokenTable:
    """Prompt and completion ids as they were drawn; the completion is under the mask."""
    prompts = [list(c.prompt_ids) for c in candidates]
    answers = [c.answer.completion.tokens.tolist() for c in candidates]
    pairs = list(zip(prompts, answers, strict=True))
    return TokenTable.of([p + a for p, a in pairs], [[False] * len(p) + [True] * len(a) for p, a in pairs])


def to_state(table: TokenTable) -> dict[str, torch.Tensor]:
    """Plain tensors, for a checkpoint."""
    return {name: torch.from_numpy(getattr(table, name)) for name in ("ids", "mask", "starts")}


def from_state(state: Mapping[str, torch.Tensor]) -> TokenTable:
    """The inverse of `to_state`."""
    ids, mask, starts = (state[name].cpu().numpy() for name in ("ids", "mask", "starts"))
    return TokenTable(ids, mask, starts, counts_of(mask, starts, None))


@rank_zero_only
def _tell(text: str) -> None:
    print(text)
