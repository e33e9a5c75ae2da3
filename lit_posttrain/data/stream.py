"""The outer loop of online methods, as a loader: rollouts are data.

The loader asks the module to collect, cuts what comes back into optimiser steps and yields their micro-batches.
A rollout is the same on all ranks, who each learn from their part of every step.
It is sized, since Lightning prefetches from unsized loaders, which would draw each rollout one step too early.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from lit_posttrain import collate, interruption
from lit_posttrain.batches import Experience, PromptBatch
from lit_posttrain.contracts import OnlineMethod
from lit_posttrain.data.steps import (
    Cut,
    build,
    layout,
    micro_batches,
    minibatch_rows,
    position_of,
    silent,
    standing,
    weigh,
)
from lit_posttrain.errors import InputError
from lit_posttrain.keys import digest

SCORED = ("old_logprobs", "reference_logprobs", "teacher_logprobs")


class ExperienceStream:
    """Yields the micro-batches of `rollouts` rollouts.

    Args:
        method: Collects, scores, and says how tokens are weighed and how often a rollout is used.
        prompts: Gives the prompt batch number i, for any i >= 0; a function of i alone.
        cut: How a step is cut into micro-batches.
        rollouts: Rollouts until the stream ends; Lightning calls that an epoch.
        seed: Of the order of groups.
        max_redraws: How many prompt batches without any signal are passed over before the run stops.
    """

    def __init__(
        self,
        method: OnlineMethod,
        prompts: Callable[[int], PromptBatch],
        *,
        cut: Cut,
        rollouts: int,
        seed: int = 0,
        max_redraws: int = 16,
    ) -> None:
        self.method, self.prompts, self.cut = method, prompts, cut
        self.rollouts, self.seed, self.max_redraws = rollouts, seed, max_redraws
        self.drawn = 0
        self.redrawn = 0
        self.rollout = 0
        self.position = 0
        self.pending: Experience | None = None

    @property
    def per_rollout(self) -> int:
        """Micro-batches that one rollout gives."""
        return self.method.reuse.epochs * self.method.reuse.minibatches * self.cut.micro_batches

    def __len__(self) -> int:
        return self.rollouts * self.per_rollout

    def __iter__(self) -> Iterator[Experience]:
        if self.rollout >= self.rollouts:
            self.rollout, self.position, self.pending = 0, 0, None
        while self.rollout < self.rollouts:
            if self.pending is None:
                self.pending, self.position = self._collect(), 0
            if self.pending is None:
                self.method.stop(
                    f"{self.max_redraws + 1} prompt batches in a row had nothing left to learn from"
                )
                return
            for index, batch in enumerate(self._batches(self.pending)):
                if index < self.position:
                    continue
                self.position = index + 1
                if self.position == self.per_rollout:
                    self.rollout, self.position, self.pending = self.rollout + 1, 0, None
                yield batch

    def _collect(self) -> Experience | None:
        """Collects until a batch of prompts has a signal; None when there is none any more."""
        for attempt in range(self.max_redraws + 1):
            experience = self.method.collect(self.prompts(self.drawn), self.drawn)
            self.drawn += 1
            if experience is not None and experience.sequences:
                self.redrawn += attempt
                if self.method.needs_scoring:
                    self._score_first_pass(experience)
                return experience
        if self.drawn == self.max_redraws + 1:
            raise InputError(
                f"the first {self.drawn} prompt batches had no group with different rewards, so there is nothing to "
                "learn from: every problem is solved, unsolved or ungraded; change the problems, the starting "
                "network, the sampling temperature or the group size"
            )
        return None

    def _steps(self, experience: Experience, epoch: int) -> list[list[int]]:
        """The rows of each optimiser step of one pass."""
        generator = torch.Generator().manual_seed(digest(self.seed, "order", self.drawn, epoch))
        return minibatch_rows(experience.group, self.method.reuse.minibatches, generator)

    def _batches(self, experience: Experience) -> Iterator[Experience]:
        """All micro-batches that a rollout gives, weights filled."""
        for epoch in range(self.method.reuse.epochs):
            for rows in self._steps(experience, epoch):
                step = collate.take(experience, rows or [0])
                weigh(step, self.method.weighting, step.group)
                for batch in micro_batches(step, self.cut):
                    yield batch if rows else silent(batch)

    def _score_first_pass(self, experience: Experience) -> None:
        """Scores in the very micro-batches of the first pass, so that its first ratios are exactly 1."""
        scored: list[tuple[list[int], Experience]] = []
        for rows in self._steps(experience, 0):
            step = collate.take(experience, rows or [0])
            for parts in layout(collate.lengths(step).tolist(), self.cut) if rows else []:
                interruption.joint_safe_point()
                if any(parts):  # a rank without a part passes through the network with the others
                    mine = parts[self.cut.ranks.index]
                    batch = build(step, mine, self.cut)
                    self.method.score(batch)
                    scored += [([rows[item] for row in mine for item in row], batch)] if mine else []
        for share in self.cut.ranks.gather(scored):
            for order, batch in share:
                collate.write_back(experience, order, batch, SCORED)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, with the rollout that is not used up; plain tensors and numbers."""
        return {
            "drawn": self.drawn,
            "redrawn": self.redrawn,
            "rollout": self.rollout,
            **standing(self.position, self.cut),
            "pending": None if self.pending is None else self.pending.to_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken, also with another number of micro-batches or ranks."""
        self.drawn, self.redrawn = state["drawn"], state["redrawn"]
        self.rollout, self.position = state["rollout"], position_of(state, self.cut)
        self.pending = None if state["pending"] is None else Experience.from_state(state["pending"])
