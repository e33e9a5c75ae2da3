"""Rewards of steps at the tokens that end them, counted by hand."""

from dataclasses import replace

import pytest
import torch

from lit_posttrain.batches import Answer, Completion, Grade, Problem, StopReason, Verdict
from lit_posttrain.errors import InputError
from lit_posttrain.rollouts.step_rewards import step_rewards

PROBLEM = Problem(({"role": "user", "content": "1+1="},), "2", "1+1")
PIECES = ["", "1", "+", "1=", "2=", "=", "34"]


def decode(ids: list[int]) -> str:
    return "".join(PIECES[i] for i in ids)


def answer(ids: list[int], steps, *, text: str | None = None, reward: float | None = 1.0) -> Answer:
    drawn = Completion(
        torch.tensor(ids), torch.zeros(len(ids)), StopReason.EOS, decode(ids) if text is None else text
    )
    return Answer(PROBLEM, drawn, Grade(reward, None, Verdict.PARTIAL, steps=tuple(steps)))


def rewards_of(one: Answer, reading=decode) -> tuple[list[float], list[bool]]:
    found = step_rewards([one], reading)
    assert found is not None
    ((rewards, ends),) = found
    return rewards.tolist(), ends.tolist()


def test_steps_end_at_the_first_token_that_reaches_their_end():
    """The text 1+1=2=34 and an end token: 4 characters are there with the third token, 6 with the fourth, 8 with the
    fifth, and not with the end token behind it."""
    rewards, ends = rewards_of(answer([1, 2, 3, 4, 6, 0], [(4, 0.5), (6, -0.25), (8, 2.0)]))
    assert rewards == [0, 0, 0.5, -0.25, 2.0, 0]
    assert ends == [False, False, True, True, True, False]


def test_a_step_that_ends_within_a_token_ends_at_it():
    assert rewards_of(answer([1, 2, 3], [(3, 1.5)])) == ([0, 0, 1.5], [False, False, True])


def test_rewards_that_end_at_one_token_add_up():
    assert rewards_of(answer([1, 2, 6], [(3, 1.0), (4, 0.25)])) == ([0, 0, 1.25], [False, False, True])


def test_a_reward_of_0_still_marks_its_end():
    assert rewards_of(answer([1, 2], [(1, 0.0)])) == ([0, 0], [True, False])


def test_half_a_character_is_not_taken_for_a_longer_text():
    """Of the four bytes of one character the first three alone are read as three characters."""

    def of_bytes(ids: list[int]) -> str:
        whole = bytes(ids)
        for cut in range(len(whole) + 1):
            try:
                return whole[: len(whole) - cut].decode() + "\ufffd" * cut
            except UnicodeDecodeError:
                continue
        raise AssertionError

    ids = list("a\U0001f600b=".encode())
    assert of_bytes(ids[:4]) == "a\ufffd\ufffd\ufffd"
    for end, place in ((1, 0), (2, 4), (3, 5), (4, 6)):
        rewards, _ = rewards_of(answer(ids, [(end, 1.0)], text="a\U0001f600b="), of_bytes)
        assert rewards.index(1.0) == place


def test_what_was_put_in_has_no_reward_but_the_token_before_it():
    one = answer([1, 2, 5, 5, 4], [(1, 0.125), (3, 0.5), (4, 0.25), (6, 1.0)])
    marks = torch.tensor([False, False, True, True, False])
    cut = replace(one, completion=replace(one.completion, injected=marks))
    assert rewards_of(cut) == ([0.125, 0.75, 0, 0, 1.0], [True, True, False, False, True])
    at_once = replace(one.completion, injected=torch.tensor([True, True, True, False, False]))
    assert rewards_of(replace(one, completion=at_once)) == (
        [0, 0, 0, 0.25, 1.0],
        [False, False, False, True, True],
    )


def test_ungraded_completions_and_those_without_steps_have_none():
    found = step_rewards(
        [answer([1, 2], [(1, 1.0)]), answer([1, 2, 5], []), answer([1], [(1, 5.0)], reward=None)], decode
    )
    assert found is not None
    assert [rewards.tolist() for rewards, _ in found] == [[1, 0], [0, 0, 0], [0]]
    assert [ends.any().item() for _, ends in found] == [True, False, False]
    assert step_rewards([answer([1, 2], [])], decode) is None


@pytest.mark.parametrize("end", [0, -1, 5])
def test_ends_outside_the_text_are_refused(end):
    with pytest.raises(InputError, match=rf"ends after {end} characters of a completion of 4"):
        step_rewards([answer([1, 2, 3], [(end, 1.0)])], decode)


@pytest.mark.parametrize("seed", range(20))
def test_halving_finds_what_counting_finds(seed):
    """The sum of all rewards is kept, and each stands at the token that a walk through the text meets first."""
    drawn = torch.randint(0, len(PIECES), (12,), generator=torch.Generator().manual_seed(seed))
    ids = [*drawn.tolist(), 1]
    text, wanted = decode(ids), [0.0] * len(ids)
    steps = [(end, float(2**end)) for end in range(1, len(text) + 1, 2)]
    for end, reward in steps:
        read = 0
        for place, i in enumerate(ids):
            read += len(PIECES[i])
            if read >= end:
                wanted[place] += reward
                break
    assert rewards_of(answer(ids, steps))[0] == wanted
    assert sum(wanted) == sum(reward for _, reward in steps)
