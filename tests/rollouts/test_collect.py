"""From graded completions to tensors: what is masked, what parts and attempts are."""

from dataclasses import replace

import pytest
import torch

from lit_posttrain.batches import Answer, Completion, Grade, Problem, StopReason, Verdict
from lit_posttrain.contracts import Attempt
from lit_posttrain.errors import InputError
from lit_posttrain.rollouts import to_experience
from lit_posttrain.rollouts.collect import attempts, reward_parts

PROMPTS = [[10, 11], [12]]
ADVANTAGES = torch.tensor([[1.0, -1.0], [2.0, -2.0]])


def answer(
    tokens: list[int], grade: Grade | None = None, injected: list[int] | None = None, uid="a"
) -> Answer:
    """A completion with log-prob -i of its token number i, counted from 1."""
    marks = None if injected is None else torch.tensor([i in injected for i in range(len(tokens))])
    logprobs = -torch.arange(1.0, len(tokens) + 1)
    if marks is not None:
        logprobs[marks] = 0.0
    text = "".join(map(str, tokens))
    drawn = Completion(torch.tensor(tokens), logprobs, StopReason.EOS, text, marks)
    problem = Problem(({"role": "user", "content": "1+1="},), "2", uid)
    return Answer(problem, drawn, grade or Grade(1.0, True, Verdict.CORRECT))


def experience(answers, **options):
    return to_experience(answers, PROMPTS, ADVANTAGES, temperature=1.0, policy_version=3, pad_id=0, **options)


ANSWERS = [[answer([1, 2, 3, 4], injected=[1, 2]), answer([5])], [answer([6, 7]), answer([8, 9, 1])]]


def test_tokens_that_were_put_in_are_not_learned_from():
    batch = experience(ANSWERS)
    assert batch.input_ids.tolist() == [
        [10, 11, 1, 2, 3, 4],
        [10, 11, 5, 0, 0, 0],
        [12, 6, 7, 0, 0, 0],
        [12, 8, 9, 1, 0, 0],
    ]
    assert batch.mask.int().tolist() == [
        [0, 0, 1, 0, 0, 1],
        [0, 0, 1, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
    ]
    assert batch.sampled_logprobs.tolist() == [
        [0, 0, -1, 0, 0, -4],
        [0, 0, -1, 0, 0, 0],
        [0, -1, -2, 0, 0, 0],
        [0, -1, -2, -3, 0, 0],
    ]
    assert batch.advantages.tolist() == [
        [0, 0, 1, 0, 0, 1],
        [0, 0, -1, 0, 0, 0],
        [0, 2, 2, 0, 0, 0],
        [0, -2, -2, -2, 0, 0],
    ]
    assert (batch.segments[0] == 1).all(), "what was put in is still read"
    assert (batch.counted, batch.token_rewards, batch.step_ends) == (None, None, None)


def test_a_log_prob_of_an_engine_for_what_it_put_in_is_dropped():
    one = ANSWERS[0][0]
    odd = replace(one, completion=replace(one.completion, logprobs=torch.tensor([-1.0, -9, -9, -4])))
    batch = experience([[odd, ANSWERS[0][1]], ANSWERS[1]])
    assert torch.equal(batch.sampled_logprobs, experience(ANSWERS).sampled_logprobs)


def test_counted_is_handed_on():
    marks = torch.tensor([True, False, True, True])
    assert experience(ANSWERS, counted=marks).counted is marks


def test_rewards_of_steps_stand_behind_the_prompts():
    """Steps of the last completion, 891, end after 1 and 3 characters; those of the first in what was put in."""

    def decode(ids):
        return "".join(map(str, ids))

    first = Grade(0.5, None, Verdict.PARTIAL, steps=((3, 0.25), (4, 4.0)))
    last = Grade(0.5, None, Verdict.PARTIAL, steps=((1, 0.5), (3, -1.0)))
    answers = [
        [replace(ANSWERS[0][0], grade=first), ANSWERS[0][1]],
        [ANSWERS[1][0], replace(ANSWERS[1][1], grade=last)],
    ]
    batch = experience(answers, decode=decode)
    assert batch.token_rewards is not None
    assert batch.step_ends is not None
    assert batch.token_rewards.tolist() == [
        [0, 0, 0.25, 0, 0, 4.0],
        [0] * 6,
        [0] * 6,
        [0, 0.5, 0, -1.0, 0, 0],
    ]
    assert batch.step_ends.nonzero().tolist() == [[0, 2], [0, 5], [3, 1], [3, 3]]
    assert not (batch.step_ends & ~batch.mask).any()
    assert experience(answers).token_rewards is None
    assert experience(ANSWERS, decode=decode).token_rewards is None


def graded(reward: float | None, **parts: float) -> Answer:
    verdict = Verdict.GRADER_ERROR if reward is None else Verdict.CORRECT
    return answer([1], Grade(reward, None, verdict, parts))


def test_parts_of_rewards_in_the_order_of_their_names():
    groups = [
        [graded(3.0, sum=1.0, length=2.0), graded(None, sum=7.0)],
        [graded(0.5, length=0.25, sum=0.25), graded(9.0, sum=4.0, length=5.0, more=6.0)],
    ]
    parts, marks = reward_parts(groups, ("length", "sum"))
    assert parts.tolist() == [[[2, 1], [0, 0]], [[0.25, 0.25], [5, 4]]]
    assert marks.tolist() == [[True, False], [True, True]]
    whole, same = reward_parts(groups, ())
    assert whole.tolist() == [[[3], [0]], [[0.5], [9]]]
    assert torch.equal(marks, same)


def test_a_part_that_a_grade_lacks_is_refused_with_those_that_there_are():
    groups = [[graded(3.0, sum=1.0, length=2.0), graded(1.0, sum=1.0)]]
    with pytest.raises(InputError, match=r"lacks \['length'\].* \['sum'\]"):
        reward_parts(groups, ("sum", "length"))
    assert reward_parts(groups, ("sum",))[0].tolist() == [[[1], [1]]]


def test_attempts_count_what_is_known_to_be_right_or_wrong():
    marks = [[True, None, False, True], [None] * 4, [False] * 4]
    groups = [
        [answer([1], Grade(None if m is None else float(m), m, Verdict.CORRECT), uid=uid) for m in row]
        for uid, row in zip("abc", marks, strict=True)
    ]
    assert attempts(groups) == (Attempt("a", 3, 2), Attempt("b", 0, 0), Attempt("c", 4, 0))
