"""Expert iteration: sample with the policy, keep what is good, train on it, and again.

Source: Anthony et al. 2017, arXiv:1705.08439; Zelikman et al. 2022 (STaR, here without rationalisation),
arXiv:2203.14465; Singh et al. 2023 (ReST-EM), arXiv:2312.06585.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lit_posttrain.batches import PromptBatch, Sampling, TokenBatch
from lit_posttrain.candidates import Candidate
from lit_posttrain.contracts import Drawing, DrawingMethod, ProblemSource, Selection
from lit_posttrain.data.loader import TokenLoader
from lit_posttrain.data.order import EpochOrder, Portion, StepSize
from lit_posttrain.data.prompts import PromptData
from lit_posttrain.data.selection import AtMost, Finished, OnlyCorrect, select
from lit_posttrain.data.steps import Cut, position_of, standing
from lit_posttrain.data.token_table import TokenTable, counts_of
from lit_posttrain.errors import InputError
from lit_posttrain.keys import digest
from lit_posttrain.ranks import Ranks
from lit_posttrain.text import ChatText


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


class ExpertIterationData(PromptData):
    """Rounds of supervised training on the policy's own kept completions, for SFTModule.

    It is also the held-out prompts of probes and tests, as PromptData is.

    Args:
        source: Where the problems come from.
        drawing: How completions are drawn, and who grades them.
        rounds: How many rounds, how large, what is kept, what each begins with.
        max_prompt_tokens: The longest prompt allowed; 0 means what the network and `max_new_tokens` leave.
        too_long: What happens to a longer one: `error` stops at start, `skip` leaves it out, counted in the
            report.
        packed: Put several completions into a row of a micro-batch instead of padding each.
        row_tokens: Tokens of a packed row; 0 means as many as the longest sequence of the step.
        probe_problems: Problems of a probe or test; 0 means the whole split.
        probe_batch: Problems that a probe generates for at a time.
        seed: Of problems, samples and order.
        text: Tokenizer and template; those of the module by default.
    """

    def __init__(
        self,
        source: ProblemSource,
        drawing: Drawing,
        rounds: Rounds = Rounds(),
        max_prompt_tokens: int = 0,
        too_long: Literal["error", "skip"] = "error",
        packed: bool = False,
        row_tokens: int = 0,
        probe_problems: int = 512,
        probe_batch: int = 512,
        seed: int = 0,
        text: ChatText | None = None,
    ) -> None:
        super().__init__(
            source,
            problems_per_rollout=rounds.problems,
            max_prompt_tokens=max_prompt_tokens,
            too_long=too_long,
            packed=packed,
            row_tokens=row_tokens,
            probe_problems=probe_problems,
            probe_batch=probe_batch,
            seed=seed,
            text=text,
        )
        self.drawing, self.rounds = drawing, rounds

    def setup(self, stage: str) -> None:
        """Checks and reports on the split that the stage reads.

        Raises:
            InputError: if the module that is to be trained is not trained on completions of its own.
        """
        if stage == "fit" and self.trainer is not None:
            self._method()
        super().setup(stage)

    def train_dataloader(self) -> RoundStream:  # type: ignore[override]
        """The rounds."""
        assert self.trainer is not None
        method = self._method()
        cut = Cut(
            int(self.trainer.accumulate_grad_batches), self.packed, self.row_tokens, Ranks.of(self.trainer)
        )
        return RoundStream(
            method,
            self.rollout,
            self.drawing,
            self.rounds,
            cut=cut,
            pad_id=method.text.pad_id,  # type: ignore[attr-defined]
            seed=self.seed,
        )

    def _method(self) -> DrawingMethod:
        assert self.trainer is not None
        method = self.trainer.lightning_module
        if not isinstance(method, DrawingMethod):
            raise InputError(
                f"{type(method).__name__} draws no completions for supervised training; ExpertIterationData is for "
                "SFTModule. Give PromptData to a method of reinforcement learning"
            )
        return method

    def val_dataloader(self) -> list[TokenBatch]:
        """Nothing: held-out problems have no worked answers here; probes measure them."""
        return []

    def _sampling(self, module: Any) -> Sampling | None:
        return self.drawing.sampling if isinstance(module, DrawingMethod) else super()._sampling(module)
