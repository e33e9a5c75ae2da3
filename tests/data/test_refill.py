"""Dynamic sampling: how many prompt batches, which groups, and how they are joined."""

import dataclasses

import pytest
import torch
from scripted_rollouts import ScriptedMethod, experience, learn, same, stream

from lit_posttrain.data.collecting import Collector
from lit_posttrain.data.refill import DynamicSampling, joined
from lit_posttrain.errors import InputError


def refilled(method, most_draws=8, **options):
    return stream(method, collector={"refill": DynamicSampling(most_draws)}, **options)


def numbers(batches):
    """Which prompt batches the sequences came from, by group."""
    return {int(g): int(b.input_ids[i, 0]) - 1 for b in batches for i, g in enumerate(b.group)}


def test_batches_are_drawn_until_enough_groups_are_there():
    """Of three wanted: 1, then 0, then 3 of which the first 2 are kept; the next rollout begins with batch 3."""
    method = ScriptedMethod(groups=[1, 0, 3, 3].__getitem__, needs_scoring=True)
    batches = list(refilled(method, rollouts=2))
    assert numbers(batches[:2]) == {0: 0, 1: 2, 2: 2}
    assert numbers(batches[2:]) == {0: 3, 1: 3, 2: 3}
    assert sum(b.sequences for b in batches[:2]) == 6
    assert [e for e in method.events if e[0] != "score"] == [
        ("collect", 0), ("collect", 1), ("collect", 2), ("settle", 6), ("collect", 3), ("settle", 6),
    ]  # fmt: skip
    assert [n for _, n in method.recorded("rollout/refill_draws")] == [3, 1]


def test_after_the_most_draws_what_is_there_is_used_with_one_warning(caplog):
    method = ScriptedMethod(groups=lambda index: 1)
    batches = list(refilled(method, 2, rollouts=3))
    assert [n for _, n in method.recorded("rollout/refill_draws")] == [2, 2, 2]
    assert sum(b.sequences for b in batches) == 3 * 4
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "2 of 3 groups with a signal after 2 prompt batches" in caplog.text


def test_a_full_batch_is_what_it_is_without_refill():
    left, right = ScriptedMethod(), ScriptedMethod()
    assert same(learn(refilled(left), left), learn(stream(right), right))


def test_nothing_at_all_is_still_passed_over_and_ends_as_without():
    method = ScriptedMethod(groups=[0, 0, 0, 3].__getitem__)
    assert numbers(list(refilled(method, 2, rollouts=1))) == {0: 3, 1: 3, 2: 3}
    with pytest.raises(InputError, match="first 17 prompt batches"):
        list(refilled(ScriptedMethod(groups=lambda index: 0), 2))


def test_joined_by_hand():
    first, second = experience(0, 2), experience(1, 4)
    first = dataclasses.replace(first, counted=torch.tensor([True, False]))
    second = dataclasses.replace(second, token_rewards=torch.ones(second.input_ids.shape))
    whole = joined([first, second], 2)
    assert whole.group.tolist() == [0, 0, 1, 1]
    assert whole.counted.tolist() == [True, False, True, True]
    assert whole.input_ids[:, 0].tolist() == [1, 1, 2, 2]
    assert whole.token_rewards[:2].abs().sum() == 0
    assert whole.token_rewards[2, :3].tolist() == [1, 1, 1]
    assert whole.reference_logprobs is None
    assert joined([first], 1) is first
    assert (first.group.tolist(), second.token_rewards.shape) == ([0, 0], second.input_ids.shape)


def test_groups_with_gaps_stay_apart():
    """Group numbers 0 and 4 of the first batch, 2 of the second: three groups, none of which are one."""
    first = dataclasses.replace(experience(0, 4), group=torch.tensor([0, 0, 4, 4]))
    second = dataclasses.replace(experience(1, 2), group=torch.tensor([2, 2]))
    assert joined([first, second], 9).group.tolist() == [0, 0, 4, 4, 7, 7]
    assert joined([first, second], 2).group.tolist() == [0, 0, 4, 4]


def test_a_setting_without_a_draw_and_another_one_at_a_resume_are_refused():
    with pytest.raises(InputError, match=r"refill\.most_draws"):
        DynamicSampling(0)
    state = Collector(ScriptedMethod(), None, problems=3, refill=DynamicSampling()).state_dict()
    with pytest.raises(InputError, match=r"data\.refill DynamicSampling\(most_draws=8\)"):
        Collector(ScriptedMethod(), None, problems=3).load_state_dict(state)


@pytest.mark.parametrize("stop", range(1, 8))
def test_going_on_with_a_queue_of_joined_rollouts(stop):
    groups = [1, 2, 3, 0, 2, 2, 1, 1, 1, 3, 3].__getitem__
    whole, before, after = (ScriptedMethod(groups=groups) for _ in range(3))
    everything = learn(refilled(whole, rollouts=4, staleness=2), whole)
    first, second = (refilled(method, rollouts=4, staleness=2) for method in (before, after))
    seen = learn(first, before, stop)
    second.load_state_dict(first.state_dict())
    after.step = before.step
    assert same(seen + learn(second, after), everything)
    assert before.events + after.events == whole.events
