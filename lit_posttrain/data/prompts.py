"""Problems for online methods, probes and test-time compute."""

import hashlib
from collections.abc import Container, Iterator, Sequence
from typing import Any, Literal

import lightning.pytorch as pl

from lit_posttrain.batches import Problem, PromptBatch, Sampling
from lit_posttrain.contracts import Curriculum, OnlineMethod, ProblemSource, PromptSource
from lit_posttrain.data.chat import text_of
from lit_posttrain.data.collecting import Collector
from lit_posttrain.data.problem_order import ProblemOrder
from lit_posttrain.data.refill import DynamicSampling
from lit_posttrain.data.report import check_lengths, entry, report
from lit_posttrain.data.steps import Cut
from lit_posttrain.data.stream import ExperienceStream
from lit_posttrain.errors import InputError
from lit_posttrain.ranks import Ranks
from lit_posttrain.text import ChatText


class ProbeLoader:
    """A sized iterable over the prompt batches of a split (a plain list would be taken for several loaders)."""

    def __init__(self, batches: Sequence[PromptBatch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[PromptBatch]:
        return iter(self.batches)


class PromptData(pl.LightningDataModule, PromptSource):
    """Problems whose answers are drawn, not given.

    Args:
        source: Where the problems come from.
        problems_per_rollout: Problems of one rollout, over all ranks.
        rollouts_per_epoch: Rollouts that Lightning calls an epoch; `max_steps` of the trainer ends the run.
        max_prompt_tokens: The longest prompt allowed; 0 means what the network and `max_new_tokens` leave.
        too_long: What happens to a longer one: `error` stops at start, `skip` leaves it out, counted in the
            report.
        packed: Put several completions into a row of a micro-batch instead of padding each.
        row_tokens: Tokens of a packed row; 0 means as many as the longest sequence of the step.
        probe_problems: Problems of a probe or test; 0 means the whole split.
        probe_batch: Problems that a probe generates for at a time.
        seed: Of the order of problems.
        text: Tokenizer and template; those of the module by default.
        predict_split: The split that `predict` answers; `train` for a pool to learn from.
        curriculum: Which problems stay in training, such as NoPositiveResampling; all by default.
        refill: Draws further prompt batches until a rollout has `problems_per_rollout` groups with a signal.
        staleness: By how many optimiser steps a rollout's policy is older than the one that begins to learn from
            it; 0 draws each rollout when it is needed. In the first steps of a run there is less to be older than.
    """

    def __init__(
        self,
        source: ProblemSource,
        problems_per_rollout: int = 64,
        rollouts_per_epoch: int = 100,
        max_prompt_tokens: int = 0,
        too_long: Literal["error", "skip"] = "error",
        packed: bool = False,
        row_tokens: int = 0,
        probe_problems: int = 512,
        probe_batch: int = 512,
        seed: int = 0,
        text: ChatText | None = None,
        predict_split: Literal["train", "validation", "test"] = "test",
        curriculum: Curriculum | None = None,
        refill: DynamicSampling | None = None,
        staleness: int = 0,
    ) -> None:
        super().__init__()
        if problems_per_rollout < 1 or rollouts_per_epoch < 1:
            raise InputError(
                "problems_per_rollout and rollouts_per_epoch must be at least 1 "
                f"(got {problems_per_rollout} and {rollouts_per_epoch})"
            )
        if staleness < 0:
            raise InputError(
                f"staleness is {staleness}; it must be 0 (each rollout when it is needed) or more"
            )
        self.source, self.problems_per_rollout, self.rollouts_per_epoch = (
            source,
            problems_per_rollout,
            rollouts_per_epoch,
        )
        self.max_prompt_tokens = max_prompt_tokens
        self.too_long: Literal["error", "skip"] = too_long
        self.packed, self.row_tokens = packed, row_tokens
        self.probe_problems, self.probe_batch, self.seed, self.text = probe_problems, probe_batch, seed, text
        self.predict_split: str = predict_split
        self.curriculum, self.refill, self.staleness = curriculum, refill, staleness
        self._order: ProblemOrder | None = None
        self._kept: dict[str, Sequence[Problem]] = {}
        self._entries: dict[str, dict[str, str]] = {}

    def setup(self, stage: str) -> None:
        """Checks and reports on the split that the stage reads."""
        read = {"fit": "train", "validate": "validation", "predict": self.predict_split}
        self.problems(read.get(stage, "test"))

    def problems(self, split: str) -> Sequence[Problem]:
        """The problems of a split that fit.

        Raises:
            InputError: if there are none, or a prompt does not fit and the policy is `error`.
        """
        if split not in self._kept:
            problems = self.source.problems(split)
            if not len(problems):
                raise InputError(f"{type(self.source).__name__} has no problems in split {split!r}")
            kept, told = check_lengths(problems, self._tokens, self._limit(), self.too_long, name=split)
            report(told)
            self._kept[split] = kept
            uids = hashlib.blake2b(
                "\n".join(problem.uid for problem in kept).encode(), digest_size=8
            ).hexdigest()
            self._entries[split] = entry(self.source, split, uids, told)
        return self._kept[split]

    def datasets(self) -> list[dict[str, str]]:
        """The splits that were read, as dataset entries of a tracked run."""
        return list(self._entries.values())

    def batch(self, problems: Sequence[Problem]) -> PromptBatch:
        """Problems with their prompts' token ids."""
        return PromptBatch(list(problems), [self._tokens(problem) for problem in problems])

    def rollout(self, index: int) -> PromptBatch:
        """The prompt batch number `index` of training: each pass over the problems is in a new random order."""
        batch, _ = self.prompts_after(index * self.problems_per_rollout)
        return batch

    def prompts_after(self, place: int, left: Container[str] = ()) -> tuple[PromptBatch, int]:
        """The prompt batch that begins at a place of the endless row of problems, and the place behind it.

        Problems whose uid is in `left` are passed over; where all are, the batch is empty.
        """
        if self._order is None:
            self._order = ProblemOrder(self.problems("train"), self.seed)
        chosen, behind = self._order.after(place, self.problems_per_rollout, left)
        return self.batch(chosen), behind

    def train_dataloader(self) -> ExperienceStream:
        """The outer loop of an online method.

        Raises:
            InputError: if the module does not collect rollouts.
        """
        assert self.trainer is not None
        method = self.trainer.lightning_module
        if not isinstance(method, OnlineMethod):
            raise InputError(
                f"PromptData has no answers to train on, and {type(method).__name__} draws none; give ChatData or a "
                "method that collects rollouts, such as GRPOModule"
            )
        if self.refill is not None and not method.selective:
            raise InputError(
                f"data.refill draws until enough groups have a signal, and {type(method).__name__} learns from all "
                "groups with these settings (uniform_groups: keep, a KL in the reward, a teacher, or values); remove "
                "refill"
            )
        return ExperienceStream(
            Collector(
                method,
                self.prompts_after,
                problems=self.problems_per_rollout,
                curriculum=self.curriculum,
                refill=self.refill,
            ),
            cut=Cut(
                int(self.trainer.accumulate_grad_batches),
                self.packed,
                self.row_tokens,
                Ranks.of(self.trainer),
            ),
            rollouts=self.rollouts_per_epoch,
            seed=self.seed,
            staleness=self.staleness,
        )

    def setup_probe(self, text: ChatText, split: str) -> None:
        """Takes the tokenizer of the method that is probed, and checks the split."""
        self.text = self.text or text
        self.problems(split)

    def probe_batches(self, split: str) -> Iterator[PromptBatch]:
        """The first `probe_problems` of a split, always the same ones in the same order."""
        problems = self.problems(split)
        count = min(self.probe_problems or len(problems), len(problems))
        for first in range(0, count, self.probe_batch):
            yield self.batch([problems[i] for i in range(first, min(count, first + self.probe_batch))])

    def test_dataloader(self) -> ProbeLoader:
        """The test split."""
        return ProbeLoader(list(self.probe_batches("test")))

    def predict_dataloader(self) -> ProbeLoader:
        """The split that `predict` answers."""
        return ProbeLoader(list(self.probe_batches(self.predict_split)))

    def _tokens(self, problem: Problem) -> list[int]:
        if self.text is None:
            self.text = text_of(self)
        return self.text.prompt_ids(problem.messages)

    def _limit(self) -> int:
        if self.max_prompt_tokens or self.trainer is None:
            return self.max_prompt_tokens
        module = self.trainer.lightning_module
        positions = int(module.max_positions)  # type: ignore[arg-type]
        sampling = self._sampling(module)
        room = positions - (sampling.max_new_tokens if sampling else 0)
        if room < 1:
            raise InputError(
                f"max_new_tokens {positions - room} leaves no room for a prompt in the network's {positions} "
                "positions; lower it"
            )
        return room

    def _sampling(self, module: Any) -> Sampling | None:
        """How answers are drawn, where it is known."""
        return getattr(module, "sampling", None)
