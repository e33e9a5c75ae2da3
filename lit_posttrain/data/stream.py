"""The outer loop of online methods, as a loader: rollouts are data.

The loader asks the module to collect, cuts what comes back into optimiser steps and yields their micro-batches.
A rollout is the same on all ranks, who each learn from their part of every step.
It is sized, since Lightning prefetches from unsized loaders, which would draw each rollout one step too early.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from lit_posttrain import collate, interruption
from lit_posttrain.batches import Experience
from lit_posttrain.data.collecting import Collector, Drawn, check_same
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

SCORED = ("old_logprobs", "reference_logprobs", "teacher_logprobs", "values")


class ExperienceStream:
    """Yields the micro-batches of `rollouts` rollouts.

    Rollout j, counted from 0 through all epochs, is first learned from at optimiser step j * m (m: steps of a
    rollout), and is drawn after max(0, j * m - staleness) steps: always in order, between two steps, and ahead over
    the end of an epoch. What is drawn ahead at the end of the run is not used.

    Args:
        collector: Draws the rollouts.
        cut: How a step is cut into micro-batches.
        rollouts: Rollouts until the stream ends; Lightning calls that an epoch.
        seed: Of the order of groups.
        staleness: k, optimiser steps between the policy that draws a rollout and the one that begins to learn from
            it; 0 draws each when it is needed.
    """

    def __init__(
        self, collector: Collector, *, cut: Cut, rollouts: int, seed: int = 0, staleness: int = 0
    ) -> None:
        self.collector, self.method, self.cut = collector, collector.method, cut
        self.rollouts, self.seed, self.staleness = rollouts, seed, staleness
        self.rollout = 0
        self.position = 0
        self.queue: deque[Drawn] = deque()

    @property
    def steps_per_rollout(self) -> int:
        """m, the optimiser steps that one rollout gives."""
        return self.method.reuse.steps

    @property
    def per_rollout(self) -> int:
        """Micro-batches that one rollout gives."""
        return self.steps_per_rollout * self.cut.micro_batches

    def __len__(self) -> int:
        return self.rollouts * self.per_rollout

    def __iter__(self) -> Iterator[Experience]:
        if self.rollout >= self.rollouts:
            self.rollout = 0
        while self.rollout < self.rollouts:
            self._draw_due()
            if not self.queue:
                self.method.stop(str(self.collector.ended))
                self.collector.ended = None
                return
            yield from self._rest(self.queue[0])

    def _draw_due(self) -> None:
        """Draws every rollout that is due where the learner stands; of the queue, the first is learned from.

        After s steps of rollout j, rollout j + i is due if (j + i) * m - staleness <= j * m + s.
        """
        steps = self.position // self.cut.micro_batches
        due = (steps + self.staleness) // self.steps_per_rollout + 1
        while len(self.queue) < due and self.collector.ended is None:
            drawn = self.collector.next()
            if drawn is not None:
                if self.method.needs_scoring:
                    self._score_first_pass(drawn)
                self.method.settle(drawn.experience)
                self.queue.append(drawn)

    def _rest(self, drawn: Drawn) -> Iterator[Experience]:
        """What is left of the first rollout of the queue, from `position` on."""
        if self.position == 0:
            version = float(drawn.experience.policy_version[0])
            waiting = float(len(self.queue) - 1)
            self.method.record({"rollout/policy_version": version, "rollout/queued_rollouts": waiting})
        for index, batch in enumerate(self._batches(drawn)):
            if index < self.position:
                continue
            if index % self.cut.micro_batches == 0:
                self._draw_due()
            self.position = index + 1
            if self.position == self.per_rollout:
                self.rollout, self.position = self.rollout + 1, 0
                self.queue.popleft()
            yield batch

    def _steps(self, drawn: Drawn, epoch: int) -> list[list[int]]:
        """The rows of each optimiser step of one pass."""
        generator = torch.Generator().manual_seed(digest(self.seed, "order", drawn.number, epoch))
        return minibatch_rows(drawn.experience.group, self.method.reuse.minibatches, generator)

    def _batches(self, drawn: Drawn) -> Iterator[Experience]:
        """All micro-batches that a rollout gives, weights filled."""
        for epoch in range(self.method.reuse.epochs):
            for rows in self._steps(drawn, epoch):
                step = collate.take(drawn.experience, rows or [0])
                weigh(step, self.method.weighting, step.group, step.counted)
                for batch in micro_batches(step, self.cut):
                    yield batch if rows else silent(batch)

    def _score_first_pass(self, drawn: Drawn) -> None:
        """Scores in the very micro-batches of the first pass, so that its first ratios are exactly 1."""
        experience = drawn.experience
        scored: list[tuple[list[int], Experience]] = []
        for rows in self._steps(drawn, 0):
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
        """Where the stream stands, with the rollouts that are not used up; plain tensors, numbers and text."""
        return {
            "collector": self.collector.state_dict(),
            "staleness": self.staleness,
            "rollout": self.rollout,
            **standing(self.position, self.cut),
            "queue": [{"number": d.number, "experience": d.experience.to_state()} for d in self.queue],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken, also with another number of micro-batches or ranks.

        Raises:
            InputError: if it was taken by an older version or with other settings, or within a step that is now cut
                in another way.
        """
        if "queue" not in state:
            raise InputError(
                "the checkpoint was written before rollouts could be drawn ahead, and its data cannot be gone on with; "
                "start a new run from its weights, or finish it with the version that wrote it"
            )
        check_same("data.staleness", state["staleness"], self.staleness)
        self.collector.load_state_dict(state["collector"])
        self.rollout, self.position = state["rollout"], position_of(state, self.cut)
        self.queue = deque(
            Drawn(one["number"], Experience.from_state(one["experience"])) for one in state["queue"]
        )
