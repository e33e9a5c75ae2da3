"""Asks a method for rollouts until they have a signal, and keeps the history of problems."""

import logging
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_posttrain.batches import Experience, PromptBatch
from lit_posttrain.contracts import Collected, Curriculum, OnlineMethod
from lit_posttrain.data.curriculum import PassRates, Went, by_difficulty
from lit_posttrain.data.refill import DynamicSampling, groups_of, joined
from lit_posttrain.errors import InputError

log = logging.getLogger(__name__)

Prompts = Callable[[int, Container[str]], tuple[PromptBatch, int]]
"""Gives the prompt batch that begins at a place of the endless row of problems, without those that have left, and
the place behind it; an empty batch where all have left. A function of its arguments alone."""


@dataclass(frozen=True)
class Drawn:
    """A rollout, and its number: how many prompt batches had been drawn when it was complete."""

    number: int
    experience: Experience


class Collector:
    """Draws one rollout after the other.

    Args:
        method: Collects.
        prompts: Gives the prompt batches.
        problems: How many problems a prompt batch has, and a rollout at most.
        curriculum: Which problems stay; all by default.
        refill: How prompt batches are joined to a rollout; without it a rollout is the first one with a signal.
        max_redraws: How many prompt batches without any signal are passed over before it ends.
    """

    def __init__(
        self,
        method: OnlineMethod,
        prompts: Prompts,
        *,
        problems: int,
        curriculum: Curriculum | None = None,
        refill: DynamicSampling | None = None,
        max_redraws: int = 16,
    ) -> None:
        self.method, self.prompts, self.problems = method, prompts, problems
        self.curriculum, self.refill, self.max_redraws = curriculum, refill, max_redraws
        self.drawn = 0
        self.redrawn = 0
        self.place = 0
        self.history = PassRates()
        self.ended: str | None = None
        self._warned = False

    def next(self) -> Drawn | None:
        """A rollout with a signal; None when there is none any more, and then `ended` says why.

        Raises:
            InputError: if there never was one, or a curriculum asks for what the grader does not say.
        """
        parts: list[Experience] = []
        went: list[Went] = []
        draws = 0
        while self._wants_more(draws, parts) and (collected := self._collect()) is not None:
            draws += 1
            went += self.history.observe(collected.attempts, self.curriculum)
            if collected.experience is not None and collected.experience.sequences:
                parts.append(collected.experience)
        self._check(went, draws)
        if not parts:
            self.ended = self._reason(draws)
            return None
        self.redrawn += draws - len(parts)
        self._tell(went, draws, groups_of(parts))
        return Drawn(self.drawn, joined(parts, self.problems) if self.refill else parts[0])

    def _collect(self) -> Collected | None:
        """What the next prompt batch gives; None if no problem is left."""
        batch, place = self.prompts(self.place, self.history.left)
        if not len(batch):
            return None
        collected = self.method.collect(batch, self.drawn)
        self.place, self.drawn = place, self.drawn + 1
        return collected

    def _wants_more(self, draws: int, parts: Sequence[Experience]) -> bool:
        enough = self.refill.most_draws if self.refill else 1
        if draws >= enough and (parts or draws > self.max_redraws):
            return False
        return groups_of(parts) < self.problems

    def _reason(self, draws: int) -> str:
        """Why there was nothing to learn from.

        Raises:
            InputError: if there never was anything.
        """
        if not draws or not len(self.prompts(self.place, self.history.left)[0]):
            return f"all {len(self.history.left)} problems have left by the curriculum {described(self.curriculum)}"
        if self.drawn == draws:
            raise InputError(
                f"the first {draws} prompt batches had no group with different rewards, so there is nothing to "
                "learn from: every problem is solved, unsolved or ungraded; change the problems, the starting "
                "network, the sampling temperature or the group size"
            )
        return f"{draws} prompt batches in a row had nothing left to learn from"

    def _check(self, went: Sequence[Went], draws: int) -> None:
        """
        Raises:
            InputError: if nothing is known to be right or wrong, and a curriculum goes by it.
        """
        if self.curriculum is not None and draws and not any(one.attempt.judged for one in went):
            raise InputError(
                f"{described(self.curriculum)} goes by which completions are right, and the grader called none of a "
                "rollout right or wrong; give a grader that says so, or leave data.curriculum out"
            )

    def _tell(self, went: Sequence[Went], draws: int, groups: int) -> None:
        """Logs the rollout; warns once of one that could not be filled."""
        told = {"rollout/refill_draws": float(draws), **by_difficulty(went)}
        if self.curriculum is not None:
            told["rollout/retired_problems"] = float(len(self.history.left))
        self.method.record(told)
        if self.refill and draws >= self.refill.most_draws and groups < self.problems and not self._warned:
            self._warned = True
            log.warning(
                "a rollout has %d of %d groups with a signal after %d prompt batches, and is used as it is; raise "
                "data.refill.most_draws or give problems of other difficulty",
                groups,
                self.problems,
                draws,
            )

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, and what may not change in between; plain tensors, numbers and text."""
        return {
            "drawn": self.drawn,
            "redrawn": self.redrawn,
            "place": self.place,
            "history": self.history.to_state(),
            "ended": self.ended,
            "curriculum": described(self.curriculum),
            "refill": described(self.refill),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken.

        Raises:
            InputError: if the settings are others.
        """
        for name in ("curriculum", "refill"):
            check_same(f"data.{name}", state[name], described(getattr(self, name)))
        self.drawn, self.redrawn, self.place = state["drawn"], state["redrawn"], state["place"]
        self.history, self.ended = PassRates.from_state(state["history"]), state["ended"]


def described(part: Any) -> str:
    """A configured part with its settings, as a checkpoint keeps it."""
    return repr(part) if part is None or hasattr(part, "__dataclass_fields__") else type(part).__name__


def check_same(name: str, then: Any, now: Any) -> None:
    """
    Raises:
        InputError: if a setting is not what a checkpoint was written with.
    """
    if then != now:
        raise InputError(
            f"the checkpoint was written with {name} {then}, and the run could not go on exactly with {now}; set it "
            "as it was, or start a new run from the checkpoint's weights"
        )
