"""What happens to completions that reach the length limit, worked by hand."""

import pytest
import torch
from fakes import TEXT, grpo

from lit_posttrain.batches import Answer, Completion, Grade, Problem, Sampling, StopReason, Verdict
from lit_posttrain.errors import InputError
from lit_posttrain.rollouts.overlong import Interrupted, SoftPenalty, Unweighted, counted, prepare, shape
from lit_posttrain.text import load_text

PROBLEM = Problem(({"role": "user", "content": "1+1="},), "2", "1+1")
TEXT_OBJECT = load_text(TEXT)


def answer(tokens: int, reward: float | None = 1.0, stop: StopReason = StopReason.EOS) -> Answer:
    drawn = Completion(torch.zeros(tokens, dtype=torch.int64), torch.zeros(tokens), stop, "2")
    verdict = Verdict.GRADER_ERROR if reward is None else Verdict.CORRECT
    return Answer(PROBLEM, drawn, Grade(reward, None, verdict, {"sum": 1.0}))


def test_without_a_part_nothing_happens():
    groups = [[answer(3, stop=StopReason.LENGTH)]]
    assert shape(groups, None) is groups
    assert counted(groups, None) is None


def test_completions_that_were_cut_do_not_count_and_keep_their_rewards():
    groups = [
        [answer(3), answer(8, 0.5, StopReason.LENGTH)],
        [answer(8, None, StopReason.LENGTH), answer(5, stop=StopReason.STOP_STRING)],
    ]
    marks = counted(groups, Unweighted())
    assert marks is not None
    assert marks.tolist() == [True, False, False, True]
    assert shape(groups, Unweighted()) == groups


def test_the_soft_penalty_of_lengths_by_hand():
    """Limit 10, buffer 4, weight 0.5: free up to 6 tokens, then an eighth more a token."""
    part = SoftPenalty(10, 4, weight=0.5)
    groups = shape([[answer(n) for n in (1, 6, 7, 8, 10, 11, 30)]], part)
    assert [a.grade.reward for a in groups[0]] == [1.0, 1.0, 0.875, 0.75, 0.5, 0.5, 0.5]
    assert [a.grade.parts["overlong"] for a in groups[0]] == [0.0, 0.0, -0.125, -0.25, -0.5, -0.5, -0.5]
    assert all(a.grade.parts["sum"] == 1.0 for a in groups[0])
    assert counted(groups, part).tolist() == [True] * 7  # type: ignore[union-attr]


def test_the_penalty_never_rises_with_the_length():
    part = SoftPenalty(23, 9, weight=2.0)
    taken = [part.penalty(tokens) for tokens in range(60)]
    assert taken == sorted(taken, reverse=True)
    assert (taken[14], taken[23], taken[59]) == (0.0, -2.0, -2.0)
    assert taken[14] > taken[15]


def test_what_could_not_be_graded_has_no_penalty():
    one = answer(30, None)
    assert shape([[one]], SoftPenalty(10, 4)) == [[one]]


@pytest.mark.parametrize(
    ("limit", "buffer", "weight"), [(10, 0, 1.0), (10, 11, 1.0), (10, 4, 0.0), (0, 0, 1.0)]
)
def test_penalties_that_cannot_be_are_refused(limit, buffer, weight):
    with pytest.raises(InputError):
        SoftPenalty(limit, buffer, weight)


def test_a_penalty_that_no_completion_can_reach_is_refused():
    SoftPenalty(10, 4).check(Sampling(max_new_tokens=7), TEXT_OBJECT)
    with pytest.raises(InputError, match=r"begins beyond 6 tokens.*max_new_tokens 6"):
        SoftPenalty(10, 4).check(Sampling(max_new_tokens=6), TEXT_OBJECT)


@pytest.mark.parametrize(("after", "answer_tokens"), [((0, 3), 2), ((4, 3), 2), ((1, 3), 0)])
def test_limits_that_cannot_be_are_refused(after, answer_tokens):
    with pytest.raises(InputError, match=r"1 <= least <= largest"):
        Interrupted("=", after, answer_tokens)


@pytest.mark.parametrize(
    ("put_in", "said"), [("", "must have some"), ("=<eos>", "no end token"), ("so:", "no spelling")]
)
def test_a_text_that_cannot_be_put_in_is_refused(put_in, said):
    with pytest.raises(InputError, match=said):
        Interrupted(put_in, (2, 3), 2).check(Sampling(max_new_tokens=20), TEXT_OBJECT)


def test_a_text_that_ends_completions_is_refused():
    (equals,) = Interrupted("=", (2, 3), 2).ids(TEXT_OBJECT)
    for ends in (Sampling(stop_strings=("+=",)), Sampling(stop_token_ids=(equals,))):
        with pytest.raises(InputError, match="holds what ends them"):
            Interrupted("1+=", (2, 3), 2).check(ends, TEXT_OBJECT)


def test_a_limit_without_room_is_refused_when_the_method_is_made():
    """3 tokens, 2 that are put in and 4 of the answer are 9; the fakes draw 8."""
    with pytest.raises(InputError, match=r"3 tokens, 2 that are put in and 4 of .*max_new_tokens to 9"):
        grpo(rollouts={"overlong": Interrupted("+=", (2, 3), 4)})
    grpo(rollouts={"overlong": Interrupted("+=", (2, 3), 3)})


def test_only_an_interruption_takes_another_engine():
    module = grpo()
    module.configure_model()
    engine = module.engine
    for part in (None, Unweighted(), SoftPenalty(8, 2)):
        assert prepare(engine, part, module.text) is engine
    assert prepare(engine, Interrupted("=", (2, 3), 2), module.text) is not engine
