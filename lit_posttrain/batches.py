"""The nouns that travel between rooms.

Dimension letters: P problems, G completions per problem, B rows, T tokens, S sequences, V vocabulary.
Every per-token tensor has the shape of `input_ids`; entry t speaks of token t given those before it in
its segment, so the first entry of a segment is zero and masked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Self

import torch
from torch import Tensor

Message = Mapping[str, str]


class StopReason(StrEnum):
    """Why a completion ended."""

    EOS = "eos"
    LENGTH = "length"
    STOP_STRING = "stop_string"
    ABORTED = "aborted"


class Verdict(StrEnum):
    """What a grader found. The first group is caused by the model's text, the second by us or the gold answer.

    `pass` to `rejected` are those of programs that were run against tests.
    """

    CORRECT = "correct"
    PARTIAL = "partial"
    INCORRECT = "incorrect"
    NO_ANSWER = "no_answer"
    MALFORMED = "malformed"
    TIMEOUT = "timeout"
    PASS = "pass"
    WRONG_ANSWER = "wrong_answer"
    RUNTIME_ERROR = "runtime_error"
    MEMORY_LIMIT = "memory_limit"
    OUTPUT_LIMIT = "output_limit"
    PROTOCOL_ERROR = "protocol_error"
    REJECTED = "rejected"

    GOLD_UNPARSEABLE = "gold_unparseable"
    GOLD_TIMEOUT = "gold_timeout"
    GRADER_ERROR = "grader_error"
    GRADER_TIMEOUT = "grader_timeout"
    SANDBOX_ERROR = "sandbox_error"


OUTAGE_VERDICTS = frozenset({Verdict.GRADER_ERROR, Verdict.GRADER_TIMEOUT, Verdict.SANDBOX_ERROR})
"""Ungraded because a grader or what it stands on failed; asking again may help."""
UNGRADED_VERDICTS = frozenset({Verdict.GOLD_UNPARSEABLE, Verdict.GOLD_TIMEOUT}) | OUTAGE_VERDICTS


@dataclass(frozen=True)
class Problem:
    """One task: the chat messages up to the answer, and what a grader needs to judge one.

    `reference` is any JSON value, read by graders only. `uid` is unique within a source and keys randomness.
    """

    messages: tuple[Message, ...]
    reference: Any
    uid: str
    source: str = ""


@dataclass(frozen=True)
class Sampling:
    """The distribution that completions are drawn from, and where they end.

    Args:
        temperature: Divides the logits; 0 means greedy decoding.
        top_p: Keeps the smallest set of tokens whose probability reaches this; 1 keeps all.
        top_k: Keeps this many most probable tokens; 0 keeps all.
        min_new_tokens: End tokens are impossible before this many tokens.
        max_new_tokens: A completion without an end is cut here, with stop reason `length`.
        stop_token_ids: End tokens beside the tokenizer's own.
        stop_strings: A completion ends as soon as its text holds one of these.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_new_tokens: int = 0
    max_new_tokens: int = 256
    stop_token_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()


@dataclass(frozen=True)
class SampleKey:
    """Names the randomness of a request: completion i of it draws from (seed, uid, first_sample + i, position)."""

    seed: int
    uid: str
    first_sample: int = 0


@dataclass(frozen=True)
class Request:
    """Ask an engine for `n` completions of `prefix` (token ids)."""

    prefix: list[int]
    key: SampleKey
    sampling: Sampling
    n: int = 1


@dataclass(frozen=True)
class Completion:
    """One generated answer.

    `tokens (T,)` int64 with the end token where one was drawn; `logprobs (T,)` float32, the nats of each under the
    distribution it was drawn from; `injected (T,)` bool, tokens that were put there and not drawn, whose log-prob is
    0; None where all were drawn.
    """

    tokens: Tensor
    logprobs: Tensor
    stop: StopReason
    text: str
    injected: Tensor | None = None


@dataclass(frozen=True)
class Grade:
    """A grader's judgement of one completion.

    `reward` is None when it could not be graded for a reason that is not the model's: such a sample is
    masked, counted and kept out of every mean. `correct` is None where right and wrong do not apply.
    `answer_key` is the canonical form of the stated answer, for voting. `steps` are rewards of parts of the
    completion: the number of characters of its text up to the end of the part, and the reward.
    """

    reward: float | None
    correct: bool | None
    verdict: Verdict
    parts: Mapping[str, float] = field(default_factory=dict)
    answer_key: str | None = None
    note: str = ""
    steps: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Answer:
    """A problem, one completion of it and the completion's grade."""

    problem: Problem
    completion: Completion
    grade: Grade
    advantage: float | None = None


def token_field(default: Any = None) -> Any:
    """A dataclass field of shape (B, T)."""
    return field(default=default, metadata={"per": "token"})


def sequence_field(default: Any = None) -> Any:
    """A dataclass field of shape (S,), ordered by segment number."""
    return field(default=default, metadata={"per": "sequence"})


@dataclass
class TokenBatch:
    """Rows of tokens for one forward pass; a row may hold several packed sequences.

    Shapes, all (B, T): `input_ids` int64; `segments` int64, sequences numbered uniquely over the batch
    1..S in reading order, 0 = padding; `position_ids` int64, from 0 in each segment; `mask` bool, the tokens
    that the objective speaks of; `weights` float32, their share in the loss of one optimiser step.
    """

    input_ids: Tensor = token_field()
    segments: Tensor = token_field()
    position_ids: Tensor = token_field()
    mask: Tensor = token_field()
    weights: Tensor = token_field()

    @property
    def sequences(self) -> int:
        """S, the number of sequences in the batch."""
        return int(self.segments.max()) if self.segments.numel() else 0

    @property
    def is_packed(self) -> bool:
        """Whether a row holds more than one sequence."""
        return self.sequences > int((self.segments > 0).any(dim=1).sum())

    def to(self, device: torch.device | str, **kwargs: Any) -> Self:
        """The same batch with every tensor on `device`."""
        moved = {
            f.name: value.to(device, **kwargs) if isinstance(value, Tensor) else value
            for f in fields(self)
            for value in [getattr(self, f.name)]
        }
        return type(self)(**moved)

    def to_state(self) -> dict[str, Any]:
        """Plain tensors and numbers only, so that a checkpoint of it loads with `weights_only`."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The inverse of `to_state`."""
        return cls(**state)


@dataclass
class Experience(TokenBatch):
    """Graded completions as tensors: what PPO and GRPO learn from.

    Per token (B, T), float32: `sampled_logprobs` (engine) and `old_logprobs` (trainer, at collection), in nats;
    `advantages`; optional `reference_logprobs` and `teacher_logprobs`, `token_rewards` (of steps, at the last token
    of each, without the reward of the whole) and `step_ends` (bool, where such a token is), `values` (V before token
    t) and `returns` (what V is to become). Per sequence (S,): `rewards`; `graded` bool; `group` int64, which problem
    of the batch; `stop` int64, index into `list(StopReason)`; `policy_version` int64; `counted` bool, whether its
    tokens have a weight in the loss, all of them where it is None.
    `temperature` is the sampling temperature, applied again whenever log-probs are recomputed.
    """

    sampled_logprobs: Tensor = token_field()
    old_logprobs: Tensor = token_field()
    advantages: Tensor = token_field()
    reference_logprobs: Tensor | None = token_field()
    teacher_logprobs: Tensor | None = token_field()
    token_rewards: Tensor | None = token_field()
    step_ends: Tensor | None = token_field()
    values: Tensor | None = token_field()
    returns: Tensor | None = token_field()
    rewards: Tensor = sequence_field()
    graded: Tensor = sequence_field()
    group: Tensor = sequence_field()
    stop: Tensor = sequence_field()
    policy_version: Tensor = sequence_field()
    counted: Tensor | None = sequence_field()
    temperature: float = 1.0


@dataclass
class PreferenceBatch(TokenBatch):
    """Pairs of completions of the same prompt; both sides of a pair stand in one batch, anywhere in it.

    Per sequence (S,): `pair` int64, the pairs of the batch numbered from 0; `chosen` bool; `margin` float32, how
    much better the chosen side is, 0 where the data does not say; `share` float32, the pair's share in the loss
    of the step. `margin` and `share` are the same on both sides, and the shares of all pairs of a step sum to 1.
    `weights` spreads the share of a pair evenly over the tokens of both sides, for counts. `reference_logprobs`
    (B, T) are in nats.
    """

    pair: Tensor = sequence_field()
    chosen: Tensor = sequence_field()
    margin: Tensor = sequence_field()
    share: Tensor = sequence_field()
    reference_logprobs: Tensor | None = token_field()

    def sides(self) -> tuple[Tensor, Tensor]:
        """The chosen and the rejected sequences, each (P,) places from 0 in reading order, pair by pair."""
        places = torch.arange(len(self.pair), device=self.pair.device)
        sides = [places[self.chosen], places[~self.chosen]]
        chosen, rejected = (side[self.pair[side].argsort()] for side in sides)
        return chosen, rejected


@dataclass
class UnpairedBatch(TokenBatch):
    """Completions that are wanted or not, and completions of other prompts for the estimate of a KL.

    Per sequence (S,): `desirable` bool; `mismatched` bool, a completion behind a prompt that it does not belong to;
    `share` float32, the sequence's share in the loss of the step, 0 where it is mismatched. `reference_logprobs`
    (B, T) are in nats.
    """

    desirable: Tensor = sequence_field()
    mismatched: Tensor = sequence_field()
    share: Tensor = sequence_field()
    reference_logprobs: Tensor | None = token_field()


@dataclass
class StepBatch(TokenBatch):
    """Solutions in steps.

    Per token (B, T): `step_ends` bool, the last token of each step; `step_labels` float32 in [0, 1], how right the
    step is that ends there. `mask` and `weights` speak of the step ends whose label is known.
    """

    step_ends: Tensor = token_field()
    step_labels: Tensor = token_field()


@dataclass
class RankedBatch(TokenBatch):
    """Completions with a grade each, several of a prompt where they are compared.

    Per sequence (S,): `target` float32, higher is better; `group` int64, which prompt of the batch; `share` float32,
    the sequence's share in the loss of the step.
    """

    target: Tensor = sequence_field()
    group: Tensor = sequence_field()
    share: Tensor = sequence_field()


@dataclass(frozen=True)
class PromptBatch:
    """Problems with the token ids of their prompts, in the same order."""

    problems: list[Problem]
    prompt_ids: list[list[int]]

    def __len__(self) -> int:
        return len(self.problems)

    def to(self, device: torch.device | str, **kwargs: Any) -> Self:
        """Itself: it holds no tensors, and Lightning refuses to look into frozen batches without this."""
        return self
