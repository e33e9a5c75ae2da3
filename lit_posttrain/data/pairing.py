"""Pairs of a better and a worse completion, made of graded candidates."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from lit_posttrain.candidates import Candidate
from lit_posttrain.errors import InputError


@dataclass(frozen=True)
class CandidatePair:
    """Two completions of a problem; `margin` is by how much the reward of the chosen one is higher."""

    chosen: Candidate
    rejected: Candidate

    @property
    def margin(self) -> float:
        """Above 0."""
        return _reward(self.chosen) - _reward(self.rejected)


class Pairing(ABC):
    """Which completions of one problem are compared."""

    @abstractmethod
    def __call__(self, candidates: Sequence[Candidate]) -> list[CandidatePair]:
        """The pairs of graded candidates of one problem; of two with the same reward none."""


@dataclass(frozen=True)
class BestWithWorst(Pairing):
    """The completion with the highest reward against that with the lowest; among equals the one drawn first."""

    def __call__(self, candidates: Sequence[Candidate]) -> list[CandidatePair]:
        """One pair, or none."""
        best, worst = max(candidates, key=_reward), min(candidates, key=_reward)
        return [CandidatePair(best, worst)] if _reward(best) > _reward(worst) else []


@dataclass(frozen=True)
class ByMargin(Pairing):
    """Every two completions whose rewards differ by enough, those that differ most first.

    Args:
        minimum: The difference that is enough; any at all at 0.
        most: Pairs of a problem; 0 means all.
    """

    minimum: float = 0.0
    most: int = 0

    def __post_init__(self) -> None:
        if self.minimum < 0 or self.most < 0:
            raise InputError(
                f"a margin and a number of pairs are 0 or more (got minimum {self.minimum} and most {self.most})"
            )

    def __call__(self, candidates: Sequence[Candidate]) -> list[CandidatePair]:
        """The pairs; of the same margin those drawn first."""
        ordered = [sorted(two, key=_reward, reverse=True) for two in combinations(candidates, 2)]
        pairs = [CandidatePair(better, worse) for better, worse in ordered]
        kept = [pair for pair in pairs if pair.margin > 0 and pair.margin >= self.minimum]
        kept.sort(key=lambda pair: -pair.margin)
        return kept[: self.most or len(kept)]


@dataclass(frozen=True)
class Paired:
    """The pairs made of `came` candidates of `problems` problems, and what gave none.

    `ungraded` counts candidates; `tied` problems with fewer than two different rewards, `other` further ones without
    a pair; `alike` pairs of the very same tokens, which were left out.
    """

    pairs: list[CandidatePair]
    came: int
    problems: int
    ungraded: int
    tied: int
    other: int
    alike: int

    def in_words(self, name: str) -> str:
        """The counts as a line of a report."""
        return (
            f"{name}: {self.came:,} candidates of {self.problems:,} problems, {len(self.pairs):,} pairs\n"
            f"  without a pair: {self.tied:,} problems with one and the same reward, {self.other:,} others; left out: "
            f"{self.ungraded:,} ungraded candidates, {self.alike:,} pairs of the same tokens"
        )

    def metrics(self) -> dict[str, float]:
        """The counts as metrics."""
        problems = max(1, self.problems)
        return {
            "rollout/pairs": float(len(self.pairs)),
            "rollout/paired_fraction": 1 - (self.tied + self.other) / problems,
            "rollout/tied_fraction": self.tied / problems,
        }


def pair(candidates: Sequence[Candidate], pairing: Pairing) -> Paired:
    """Applies the rule to the graded candidates of each problem."""
    groups: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.problem_key, []).append(candidate)
    pairs: list[CandidatePair] = []
    tied = other = alike = 0
    for group in groups.values():
        graded = [candidate for candidate in group if candidate.answer.grade.reward is not None]
        if len({_reward(candidate) for candidate in graded}) < 2:
            tied += 1
            continue
        found = pairing(graded)
        kept = [one for one in found if not _alike(one)]
        alike += len(found) - len(kept)
        other += not kept
        pairs += kept
    ungraded = sum(candidate.answer.grade.reward is None for candidate in candidates)
    return Paired(pairs, len(candidates), len(groups), ungraded, tied, other, alike)


def _reward(candidate: Candidate) -> float:
    reward = candidate.answer.grade.reward
    assert reward is not None
    return reward


def _alike(two: CandidatePair) -> bool:
    return two.chosen.answer.completion.tokens.equal(two.rejected.answer.completion.tokens)
