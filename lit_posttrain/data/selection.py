"""Which candidates of a pool are trained on: rules, applied one after the other to the candidates of each problem."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lit_posttrain.batches import StopReason
from lit_posttrain.candidates import Candidate
from lit_posttrain.contracts import Selection
from lit_posttrain.errors import InputError


@dataclass(frozen=True)
class OnlyCorrect(Selection):
    """Keeps what the grader found correct; what could not be graded is not."""

    def __call__(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those with `correct`."""
        return [c for c in candidates if c.answer.grade.correct]


@dataclass(frozen=True)
class Finished(Selection):
    """Keeps what came to its end; a completion that was cut would teach to stop in the middle."""

    def __call__(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those that ended in an end token or a stop string."""
        ends = (StopReason.EOS, StopReason.STOP_STRING)
        return [c for c in candidates if c.answer.completion.stop in ends]


@dataclass(frozen=True)
class MinimumReward(Selection):
    """Keeps what has at least this reward.

    Args:
        reward: The lowest that is kept; what could not be graded never is.
    """

    reward: float

    def __call__(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those with enough reward."""
        return [c for c in candidates if (r := c.answer.grade.reward) is not None and r >= self.reward]


@dataclass(frozen=True)
class MinimumLogprob(Selection):
    """Keeps what its policy found likely enough.

    Args:
        nats: The lowest mean log-probability per token, as sampled; 0 is the highest there is.
    """

    nats: float

    def __call__(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those that are likely enough; without tokens there is no mean, so they are not."""
        return [c for c in candidates if (mean := c.mean_logprob) is not None and mean >= self.nats]


@dataclass(frozen=True)
class Distinct(Selection):
    """Keeps one of those that say the same, the first.

    Args:
        by: What counts as the same: the `answer` as its grader reads it, or the whole `text`.
    """

    by: Literal["answer", "text"] = "text"

    def __post_init__(self) -> None:
        if self.by not in ("answer", "text"):
            raise InputError(
                f"by={self.by!r} is nothing to tell candidates apart by; choose 'answer' or 'text'"
            )

    def __call__(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The first of each kind; an answer that could not be read is a kind of its own."""
        first: dict[str | None, Candidate] = {}
        for candidate in candidates:
            answer = candidate.answer
            first.setdefault(
                answer.grade.answer_key if self.by == "answer" else answer.completion.text, candidate
            )
        return list(first.values())


@dataclass(frozen=True)
class AtMost(Selection):
    """Keeps no more than so many of a problem, the earlier ones, so that easy problems do not crowd out others.

    Args:
        n: How many.
    """

    n: int = 1

    def __post_init__(self) -> None:
        if self.n < 1:
            raise InputError(f"n is {self.n}; keep 1 candidate of a problem or more")

    def __call__(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The first."""
        return list(candidates[: self.n])


@dataclass(frozen=True)
class BestByReward(AtMost):
    """Keeps those of a problem with the highest reward; among equals the earlier.

    Args:
        n: How many.
    """

    def __call__(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The best, in their order; what could not be graded is left out."""
        rewards = {i: r for i, c in enumerate(candidates) if (r := c.answer.grade.reward) is not None}
        best = sorted(rewards, key=lambda i: (-rewards[i], i))[: self.n]
        return [candidates[i] for i in sorted(best)]


@dataclass(frozen=True)
class Shortest(AtMost):
    """Keeps those of a problem with the fewest tokens; among equals the earlier.

    Args:
        n: How many.
    """

    def __call__(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The shortest, in their order."""
        return by_length(candidates, self.n, 1)


@dataclass(frozen=True)
class Longest(AtMost):
    """Keeps those of a problem with the most tokens; among equals the earlier.

    Args:
        n: How many.
    """

    def __call__(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The longest, in their order."""
        return by_length(candidates, self.n, -1)


def by_length(candidates: Sequence[Candidate], n: int, sign: int) -> list[Candidate]:
    """The `n` with the fewest (`sign` 1) or most (-1) tokens, in their order."""
    order = sorted(
        range(len(candidates)), key=lambda i: (sign * len(candidates[i].answer.completion.tokens), i)
    )
    return [candidates[i] for i in sorted(order[:n])]


@dataclass(frozen=True)
class Kept:
    """What is left of `came` candidates of `problems` problems, and how many each rule left out, in order."""

    candidates: list[Candidate]
    came: int
    problems: int
    left_out: dict[str, int]

    def in_words(self, name: str) -> str:
        """The counts as a line of a report."""
        solved = len({candidate.problem_key for candidate in self.candidates})
        reasons = ", ".join(f"{rule} {count:,}" for rule, count in self.left_out.items() if count) or "none"
        return (
            f"{name}: {self.came:,} candidates of {self.problems:,} problems; "
            f"{len(self.candidates):,} of {solved:,} kept\n  left out by: {reasons}"
        )


def select(candidates: Sequence[Candidate], rules: Sequence[Selection]) -> Kept:
    """Applies the rules in their order to the candidates of each problem, which keep theirs."""
    groups: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.problem_key, []).append(candidate)
    names = rule_names(rules)
    left_out: Counter[str] = Counter()
    kept: list[Candidate] = []
    for group in groups.values():
        for name, rule in zip(names, rules, strict=True):
            before, group = len(group), rule(group)
            left_out[name] += before - len(group)
        kept += group
    return Kept(kept, len(candidates), len(groups), {name: left_out[name] for name in names})


def rule_names(rules: Sequence[Selection]) -> list[str]:
    """The class of each rule; a second one of a kind is numbered."""
    names: list[str] = []
    for rule in rules:
        kind = type(rule).__name__
        number = sum(name.partition(" ")[0] == kind for name in names) + 1
        names.append(kind if number == 1 else f"{kind} {number}")
    return names
