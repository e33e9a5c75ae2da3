"""What happens to completions that reach the length limit: nothing, no weight, a penalty, or a call for the answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lit_posttrain.batches import Answer, Sampling, StopReason
from lit_posttrain.contracts import RolloutEngine
from lit_posttrain.encoder import Encoder
from lit_posttrain.errors import InputError
from lit_posttrain.rollouts.time_up import TimeUp
from lit_posttrain.rollouts.torch_engine import TorchEngine
from lit_posttrain.text import ChatText

Answers = list[list[Answer]]


class Overlong:
    """One of the ways; what a part does not say stays as it is."""

    def check(self, sampling: Sampling, text: ChatText) -> None:
        """
        Raises:
            InputError: if it does not go together with how completions are drawn.
        """
        return None

    def engine(self, engine: TorchEngine, text: ChatText) -> RolloutEngine:
        """What draws the completions of training."""
        return engine

    def shaped(self, answer: Answer) -> Answer:
        """A graded answer with the reward that is learned from."""
        return answer

    def counts(self, answer: Answer) -> bool:
        """Whether the answer's tokens have a weight in the loss."""
        return True


@dataclass(frozen=True)
class Unweighted(Overlong):
    """Completions that were cut have no weight in the loss; their rewards still count in the mean of their group.

    Source: DAPO, Yu et al. 2025, arXiv:2503.14476, section 3.4 (overlong filtering).
    """

    def counts(self, answer: Answer) -> bool:
        """Not where it was cut."""
        return answer.completion.stop is not StopReason.LENGTH


@dataclass(frozen=True)
class SoftPenalty(Overlong):
    """Takes from the reward what a completion is too long: nothing, then more and more, at the limit `weight`.

    It is the part `overlong` of the reward, from 0 down to -weight. What could not be graded stays ungraded.

    Source: DAPO, Yu et al. 2025, arXiv:2503.14476, eq. 13.

    Args:
        limit_tokens: The length with the full penalty; longer ones have it too.
        buffer_tokens: Over so many tokens before the limit the penalty grows along a line.
        weight: The full penalty.
    """

    limit_tokens: int
    buffer_tokens: int
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.buffer_tokens <= self.limit_tokens:
            raise InputError(
                f"buffer_tokens is {self.buffer_tokens} and limit_tokens {self.limit_tokens}; the buffer must be "
                "above 0 and at most the limit"
            )
        if not self.weight > 0:
            raise InputError(f"weight is {self.weight}; a penalty has a weight above 0")

    def check(self, sampling: Sampling, text: ChatText) -> None:
        """
        Raises:
            InputError: if no completion can be so long that it is penalised.
        """
        free = self.limit_tokens - self.buffer_tokens
        if free >= sampling.max_new_tokens:
            raise InputError(
                f"the penalty begins beyond {free} tokens (limit_tokens {self.limit_tokens} less buffer_tokens "
                f"{self.buffer_tokens}), and completions are cut at sampling.max_new_tokens {sampling.max_new_tokens}; "
                "lower limit_tokens"
            )

    def penalty(self, tokens: int) -> float:
        """What is added to the reward of a completion of so many tokens, 0 or less."""
        over = tokens - (self.limit_tokens - self.buffer_tokens)
        return -self.weight * min(1.0, max(0.0, over / self.buffer_tokens))

    def shaped(self, answer: Answer) -> Answer:
        """With the penalty in reward and parts."""
        grade = answer.grade
        if grade.reward is None:
            return answer
        taken = self.penalty(len(answer.completion.tokens))
        parts = {**grade.parts, "overlong": taken}
        return replace(answer, grade=replace(grade, reward=grade.reward + taken, parts=parts))


@dataclass(frozen=True)
class Interrupted(Overlong):
    """Cuts in where a completion is still going, and asks for the answer.

    Each completion has a limit of its own, drawn at random; one that is not done by then gets `text`, which is not
    the policy's and not learned from, and goes on for at most `answer_tokens`. `sampling.max_new_tokens` must have
    room for all three.

    Source: ScaleRL, Khatri et al. 2025, arXiv:2510.13786, section 3 and appendix.

    Args:
        text: What is put in, such as the end of the thinking and the beginning of an answer.
        after_tokens: The least and the largest limit.
        answer_tokens: The length of what comes behind `text`.
    """

    text: str
    after_tokens: tuple[int, int]
    answer_tokens: int

    def __post_init__(self) -> None:
        low, high = self.after_tokens
        if not 1 <= low <= high or self.answer_tokens < 1:
            raise InputError(
                f"after_tokens is {low} to {high} and answer_tokens {self.answer_tokens}; give 1 <= least <= largest, "
                "and at least 1 token for the answer"
            )

    def ids(self, text: ChatText) -> list[int]:
        """The tokens of what is put in.

        Raises:
            InputError: if there are none, or it holds an end token or unknown characters.
        """
        try:
            ids = Encoder(text.tokenizer).continuation(self.text)
        except InputError as error:
            raise InputError(
                f"the text {self.text!r} that interrupts completions has no spelling: {error}"
            ) from error
        if not ids or not text.eos_ids.isdisjoint(ids):
            raise InputError(
                f"the text {self.text!r} that interrupts completions becomes the tokens {ids}; it must have some, and "
                f"no end token ({sorted(text.eos_ids)}) among them"
            )
        return ids

    def check(self, sampling: Sampling, text: ChatText) -> None:
        """
        Raises:
            InputError: if `max_new_tokens` has no room for a completion with all its parts, or `text` would end one.
        """
        ids = self.ids(text)
        ends = [stop for stop in sampling.stop_strings if stop in self.text]
        if ends or not set(sampling.stop_token_ids).isdisjoint(ids):
            raise InputError(
                f"the text {self.text!r} that interrupts completions holds what ends them (sampling.stop_strings "
                f"{list(sampling.stop_strings)}, stop_token_ids {list(sampling.stop_token_ids)}); take it out"
            )
        need = self.after_tokens[1] + len(ids) + self.answer_tokens
        if sampling.max_new_tokens < need:
            raise InputError(
                f"an interrupted completion takes up to {self.after_tokens[1]} tokens, {len(ids)} that are put in and "
                f"{self.answer_tokens} of the answer; set sampling.max_new_tokens to {need} or more (got "
                f"{sampling.max_new_tokens})"
            )

    def engine(self, engine: TorchEngine, text: ChatText) -> RolloutEngine:
        """One that cuts in."""
        return TimeUp(engine, text, self.ids(text), self.after_tokens, self.answer_tokens)


def prepare(engine: TorchEngine, overlong: Overlong | None, text: ChatText) -> RolloutEngine:
    """What draws the completions of training."""
    return engine if overlong is None else overlong.engine(engine, text)


def shape(answers: Answers, overlong: Overlong | None) -> Answers:
    """Graded answers with the rewards that are learned from."""
    return answers if overlong is None else [[overlong.shaped(a) for a in group] for group in answers]


def counted(answers: Sequence[Sequence[Answer]], overlong: Overlong | None) -> Tensor | None:
    """Which answers (P*G,) bool have a weight in the loss, problem by problem; None where all do."""
    if overlong is None:
        return None
    return torch.tensor([overlong.counts(answer) for group in answers for answer in group])
