"""The replaceable parts: each is an abstract class, named in YAML by `class_path`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from lit_posttrain.batches import Completion, Experience, Grade, Problem, PromptBatch, Request, Sampling
from lit_posttrain.candidates import Candidate
from lit_posttrain.errors import InputError
from lit_posttrain.ledger import Spent

Stats = dict[str, Tensor]
Finished = Callable[[int, int, Completion], None]


class Advantage(ABC):
    """Turns the rewards of a batch of groups into one advantage per completion.

    `needs_group` says whether completions are compared with others of the same problem; `parts` names the parts of
    the reward that it wants apart, in the order of K; none: the reward itself (K = 1).
    """

    needs_group: ClassVar[bool] = True
    parts: tuple[str, ...] = ()

    @abstractmethod
    def __call__(self, parts: Tensor, graded: Tensor) -> Tensor:
        """Advantages (P, G) from reward parts (P, G, K) and `graded` (P, G) bool; 0 where not graded."""

    @abstractmethod
    def informative(self, parts: Tensor, graded: Tensor) -> Tensor:
        """Groups (P,) bool in which an advantage other than 0 is possible; exact, not by a tolerance."""


class TokenAdvantage(ABC):
    """Turns the rewards of steps and completions into an advantage of each token."""

    needs_group: ClassVar[bool] = True
    parts: tuple[str, ...] = ()

    @abstractmethod
    def __call__(self, experience: Experience) -> Tensor:
        """Advantages (B, T), 0 outside the mask, of a whole rollout with one sequence per row."""

    @abstractmethod
    def informative(self, groups: Sequence[Sequence[Grade]]) -> Tensor:
        """Groups (P,) bool in which an advantage other than 0 is possible."""


class Returns(ABC):
    """Turns rewards of tokens into advantages of tokens.

    `needs_values` says whether a value network must give V before each token.
    """

    needs_values: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, rewards: Tensor, values: Tensor | None, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Advantages and returns, both (B, T), 0 outside the mask, of one sequence per row.

        `rewards`, `values` (B, T); `mask` (B, T) bool, the model's tokens; those between them were injected and are
        passed over.
        """


class PolicyLoss(ABC):
    """A surrogate loss of the policy, per token."""

    @abstractmethod
    def __call__(self, logprobs: Tensor, experience: Experience) -> tuple[Tensor, Stats]:
        """Token losses (B, T) from `logprobs` (B, T, nats; the only graph), and per-token statistics (B, T)."""


class Correction(ABC):
    """Factors on the policy loss for what the sampling engine and the trainer disagree on, without a gradient."""

    @abstractmethod
    def __call__(self, experience: Experience) -> tuple[Tensor, Stats]:
        """Factors (B, T) from `old_logprobs` and `sampled_logprobs`, and per-token statistics (B, T)."""


class KLEstimator(ABC):
    """An estimate of KL(policy || reference) from the policy's own tokens, in nats, spread over them."""

    @abstractmethod
    def __call__(self, logprobs: Tensor, reference: Tensor, experience: Experience) -> Tensor:
        """(B, T), 0 outside the mask, with the gradient that it has as a loss.

        `logprobs` and `reference` are (B, T).
        """


class KLCoefficient(ABC):
    """The weight of a KL, which may change from rollout to rollout."""

    @abstractmethod
    def first(self) -> float:
        """The weight of the first rollout."""

    @abstractmethod
    def next(self, value: float, *, kl_nats: float, completions: int, step: int) -> float:
        """The weight of the next rollout, after one at weight `value`.

        Args:
            value: The weight until now.
            kl_nats: The KL of a completion that was measured, the sum over its tokens, as a mean.
            completions: How many that mean is of.
            step: Optimiser steps before the next rollout.
        """


class Distillation(ABC):
    """How a policy learns from a teacher's log-probs of the policy's own completions."""

    @abstractmethod
    def __call__(self, logprobs: Tensor, experience: Experience) -> tuple[Tensor, Tensor]:
        """What is added per token (B, T) to the advantages, before the surrogate loss, and to that loss.

        `logprobs` (B, T, nats) has the only graph; the advantages have none.
        """


@dataclass(frozen=True)
class PairLogprobs:
    """What P pairs have for a loss, all (P,): log-probs of both completions, of the policy and of the reference.

    In nats, summed over the tokens of a completion or averaged, as the method's setting says. `*_tokens` are the
    lengths. The reference's are None where no loss asks for them.
    """

    chosen: Tensor
    rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    reference_chosen: Tensor | None = None
    reference_rejected: Tensor | None = None


class PreferenceLoss(ABC):
    """A loss of the policy on pairs of completions."""

    needs_reference: bool = True

    @abstractmethod
    def __call__(self, pairs: PairLogprobs) -> tuple[Tensor, Stats]:
        """Losses (P,) and statistics (P,) by metric name."""


class UnpairedLoss(ABC):
    """A loss of the policy on single completions that are wanted or not."""

    @abstractmethod
    def __call__(
        self, logprobs: Tensor, reference: Tensor, desirable: Tensor, kl: Tensor
    ) -> tuple[Tensor, Stats]:
        """Losses (S,) and statistics (S,) from summed log-probs (S,), `desirable` (S,) bool and a KL in nats, ()."""


class RewardLoss(ABC):
    """A loss of a reward model on pairs."""

    @abstractmethod
    def __call__(self, chosen: Tensor, rejected: Tensor, margin: Tensor) -> tuple[Tensor, Stats]:
        """Losses (P,) and statistics (P,) from the scores of both sides (P,) and `margin` (P,)."""


class RankingLoss(ABC):
    """A loss of a reward model on graded completions."""

    @abstractmethod
    def __call__(self, scores: Tensor, targets: Tensor, group: Tensor) -> tuple[Tensor, Stats]:
        """Losses (S,) and statistics (S,) from scores (S,), `targets` (S,) and `group` (S,) int64."""


class TokenWeights(ABC):
    """Says how much each sequence's tokens count in the loss of one optimiser step."""

    @abstractmethod
    def __call__(self, lengths: Tensor, group: Tensor) -> Tensor:
        """The weight (S,) of every token of a sequence, given `lengths` (S,) in objective tokens and `group` (S,)."""


class Grader(ABC):
    """Judges completions. Never raises on model text; its own failures give a Grade with reward None.

    `lowest` is the reward of an answer that is wrong because of its text.
    """

    lowest: float = 0.0

    @abstractmethod
    def grade(self, items: Sequence[tuple[Problem, Completion]]) -> list[Grade]:
        """One grade per item, in order."""

    def take_spent(self) -> Spent:
        """FLOPs and positions of networks that graded in this process, since the last call; zero without any."""
        return Spent()

    def close(self) -> None:
        """Ends worker processes, if there are any."""
        return None


class AnswerKey(ABC):
    """A rule for which completions count as the same answer, for voting; it reads no reference.

    Keys of the same problem are compared as texts, so that sameness is reflexive, symmetric and transitive.
    """

    @abstractmethod
    def key(self, items: Sequence[tuple[Problem, Completion]]) -> list[str | None]:
        """The key of each completion, in order; None where none is stated, which no vote counts."""

    def close(self) -> None:
        """Ends worker processes, if there are any."""
        return None


class StepGrader(ABC):
    """Scores the steps of solutions."""

    @abstractmethod
    def score(self, items: Sequence[tuple[Problem, Sequence[str]]]) -> list[list[float]]:
        """For each problem and the steps of a solution one score in [0, 1] per step."""


class Selection(ABC):
    """A rule for which candidates of one problem are learned from."""

    @abstractmethod
    def __call__(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those that are kept, in their order."""


class RolloutEngine(ABC):
    """Draws completions from a policy."""

    @abstractmethod
    def generate(
        self, requests: Sequence[Request], finished: Finished | None = None
    ) -> list[list[Completion]]:
        """For each request its `n` completions, in order.

        `finished` hears of each as soon as it is written: the place of its request, its number, itself. An engine
        may leave that out.
        """


class ProblemSource(ABC):
    """Gives problems for a split: `train`, `validation` or `test`, disjoint from each other."""

    @abstractmethod
    def problems(self, split: str) -> Sequence[Problem]:
        """All problems of the split, in a fixed order."""

    def chats(self, split: str) -> Iterable[Sequence[dict[str, str]]]:
        """Whole conversations with the model answer, for supervised training; an error where there are none."""
        raise ValueError(f"{type(self).__name__} has no worked answers to train on ({split=}).")


class PromptSource(ABC):
    """Held-out prompts for a probe; DataModules implement it."""

    @abstractmethod
    def probe_batches(self, split: str) -> Iterator[PromptBatch]:
        """All prompts of a split, always in the same order."""

    def setup_probe(self, text: Any, split: str) -> None:
        """Called before `probe_batches` with the ChatText of the policy; nothing to do where it is not needed."""
        return None


@dataclass(frozen=True)
class Outcome:
    """What a test-time strategy made of one problem.

    `chosen` is the completion that the strategy stands by, as an index; None where all count alike.
    """

    completions: list[Completion]
    chosen: int | None = None


Solving = Generator[list[Request], list[list[Completion]], Outcome]


class Strategy(ABC):
    """A way to spend compute on one problem at test time."""

    @abstractmethod
    def solve(self, problem: Problem, prompt_ids: list[int]) -> Solving:
        """Yields lists of requests, is sent their completions in the same order, and returns the outcome.

        One scheduler runs many of these side by side, so that their requests share batches.
        """


@dataclass(frozen=True)
class Reuse:
    """How often one rollout is learned from.

    Args:
        epochs: Passes over each rollout.
        minibatches: Optimiser steps per pass.
    """

    epochs: int = 1
    minibatches: int = 1

    @property
    def steps(self) -> int:
        """Optimiser steps that one rollout gives."""
        return self.epochs * self.minibatches

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.minibatches < 1:
            raise InputError(
                f"reuse needs epochs >= 1 and minibatches >= 1 (got {self.epochs}, {self.minibatches})"
            )


@dataclass(frozen=True)
class Attempt:
    """How a problem went in one rollout: completions that are known to be right or wrong, and right ones."""

    uid: str
    judged: int
    correct: int


@dataclass(frozen=True)
class Collected:
    """What a rollout gave: the experience worth learning from (None where there is no signal), and
    how each problem went."""

    experience: Experience | None
    attempts: tuple[Attempt, ...] = ()


class Curriculum(ABC):
    """Which problems stay in training, judged by how they went when they were last drawn."""

    @abstractmethod
    def keeps(self, attempt: Attempt) -> bool:
        """Whether a problem is drawn again after this attempt; one that is not never comes back."""


@runtime_checkable
class OnlineMethod(Protocol):
    """What the loader of an online method needs of it: rollouts are data that the module is asked to collect."""

    reuse: Reuse
    weighting: TokenWeights
    needs_scoring: bool

    @property
    def selective(self) -> bool:
        """Whether `collect` leaves out groups that teach nothing."""
        ...

    def collect(self, prompts: PromptBatch, index: int) -> Collected:
        """Draws, grades and keeps what is worth learning from, of the prompt batch number `index`."""
        ...

    def score(self, experience: Experience) -> None:
        """Fills the trainer's old and the reference's log-probs, and values, of a micro-batch, in place."""
        ...

    def settle(self, experience: Experience) -> None:
        """Fills advantages and returns of a whole rollout that has been scored, in place; the same on all ranks."""
        ...

    def record(self, values: Mapping[str, float]) -> None:
        """Logs values at the current optimiser step."""
        ...

    def stop(self, reason: str) -> None:
        """Ends the training after this step, with a reason for the log."""
        ...


@dataclass(frozen=True)
class Patience:
    """What happens when answers stay ungraded because what grades them is out of order.

    The run pauses, says so, and asks again for the answers concerned; nothing is learned meanwhile. Below the
    limit they are masked and counted.

    Args:
        pause_above: Share of the answers of a rollout (on one process) above which the run pauses.
        first_wait_s: Seconds of the first pause; each further one is twice as long, up to a minute.
        give_up_after_s: Seconds after which the run stops instead, with a checkpoint of its last step.
    """

    pause_above: float = 0.05
    first_wait_s: float = 2.0
    give_up_after_s: float = 1200.0

    def __post_init__(self) -> None:
        if not 0 <= self.pause_above <= 1 or self.first_wait_s <= 0 or self.give_up_after_s < 0:
            raise InputError(
                "patience needs pause_above in [0, 1], first_wait_s > 0 and give_up_after_s >= 0 (got "
                f"{self.pause_above}, {self.first_wait_s} and {self.give_up_after_s})"
            )


@dataclass(frozen=True)
class Drawing:
    """How completions are drawn for supervised training, and who grades them.

    Args:
        grader: Judges the completions.
        sampling: Temperature and length.
        samples: Completions of each problem.
        deadline_s: Seconds that grading may take; what is late is not graded.
        pool: Where all candidates are written as well, kept or not: a path that ends in .parquet or .jsonl.
        patience: What happens when the grader is out of order.
    """

    grader: Grader
    sampling: Sampling = field(default_factory=Sampling)
    samples: int = 8
    deadline_s: float = 60.0
    pool: str | None = None
    patience: Patience = field(default_factory=Patience)

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InputError(f"samples is {self.samples}; draw 1 completion of each problem or more")


@runtime_checkable
class DrawingMethod(Protocol):
    """What the loader of a method needs that is trained on kept completions of its own policy."""

    weighting: TokenWeights

    def draw(self, prompts: PromptBatch, drawing: Drawing, index: int, seed: int) -> list[Candidate]:
        """Graded completions of the current policy, problem by problem, the same on all ranks.

        `index` is the number of the round, from 0.
        """
        ...

    def restart(self) -> None:
        """Gives the policy the weights that it started with, and the optimiser an empty state."""
        ...

    def record(self, values: Mapping[str, float]) -> None:
        """Logs values at the current optimiser step."""
        ...

    def stop(self, reason: str) -> None:
        """Ends the training after this step, with a reason for the log."""
        ...
