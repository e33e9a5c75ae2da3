"""Rewards of steps, which graders give by characters, at the tokens that end them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lit_posttrain.batches import Answer, Completion
from lit_posttrain.errors import InputError

Decode = Callable[[list[int]], str]


def step_rewards(answers: Sequence[Answer], decode: Decode) -> list[tuple[Tensor, Tensor]] | None:
    """For each answer the rewards (T,) float32 of the steps that end at its tokens and where such are (T,) bool.

    A step ends at the first token with which the decoded text holds all of it. One that ends in tokens that were put
    in ends at the last drawn token before them; without such, no token has led to it. Rewards of steps that end at
    one token add up. None where no answer has steps.

    Raises:
        InputError: for a step that ends beyond the text, or before it begins.
    """
    if not any(answer.grade.steps for answer in answers):
        return None
    return [_of(answer, decode) for answer in answers]


def _of(answer: Answer, decode: Decode) -> tuple[Tensor, Tensor]:
    ids = answer.completion.tokens.tolist()
    rewards, ends = torch.zeros(len(ids)), torch.zeros(len(ids), dtype=torch.bool)
    if answer.grade.reward is None:
        return rewards, ends
    for end, reward in answer.grade.steps:
        if not 0 < end <= len(answer.completion.text):
            raise InputError(
                f"a grader rewards a step that ends after {end} characters of a completion of "
                f"{len(answer.completion.text)}; Grade.steps counts characters of the completion's text"
            )
        place = _drawn_at(answer.completion, _token_at(ids, answer.completion.text[:end], decode))
        if place is not None:
            rewards[place] += reward
            ends[place] = True
    return rewards, ends


def _token_at(ids: list[int], begun: str, decode: Decode) -> int:
    """The first token with which the text begins with `begun`, by halving: once it does, it does with more tokens.

    Lengths would not do: half of a character can be decoded as more characters than the whole.
    """
    low, high = 0, len(ids) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if decode(ids[: middle + 1]).startswith(begun) else (middle + 1, high)
    return low


def _drawn_at(completion: Completion, place: int) -> int | None:
    """The last token up to `place` that was not put in."""
    if completion.injected is None:
        return place
    drawn = (~completion.injected[: place + 1]).nonzero()
    return int(drawn[-1]) if len(drawn) else None
