"""Advantages of completions against values worked by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_posttrain.errors import InputError
from lit_posttrain.objectives.advantages import (
    BatchWhitened,
    GroupAdvantage,
    LeaveOneOut,
    effective_samples,
    group_relative,
    informative_groups,
)
from lit_posttrain.objectives.part_advantages import PartwiseAdvantage
from lit_posttrain.objectives.whitening import EPSILON

EVERY = [
    GroupAdvantage("group"),
    GroupAdvantage("batch"),
    GroupAdvantage("none"),
    LeaveOneOut(),
    BatchWhitened("batch"),
    BatchWhitened("group"),
    PartwiseAdvantage({"a": 1.0}),
    PartwiseAdvantage({"a": 1.0}, deviation="none", then="batch"),
]
REWARDS = torch.tensor([[1.0, 0.0, 0.0, 0.0], [3.0, 1.0, 3.0, 1.0]])
CENTRED = [[0.75, -0.25, -0.25, -0.25], [1.0, -1.0, 1.0, -1.0]]
ALL = torch.ones(2, 4, dtype=torch.bool)


def divided(rows, by):
    return torch.tensor(rows) / (torch.tensor(by) + EPSILON)


def advantages(part, rewards, graded):
    return part(rewards[..., None], graded)


def test_two_groups_of_different_variance():
    deviations = [[0.5], [(4 / 3) ** 0.5]]  # unbiased: sqrt((.5625 + 3 * .0625) / 3), sqrt(4 / 3)
    expected = divided(CENTRED, deviations)
    assert torch.allclose(advantages(GroupAdvantage(), REWARDS, ALL), expected, atol=1e-6)
    assert torch.allclose(group_relative(REWARDS, ALL), expected, atol=1e-6)
    unscaled = torch.tensor(CENTRED)
    assert torch.allclose(advantages(GroupAdvantage("none"), REWARDS, ALL), unscaled, atol=1e-6)
    assert torch.allclose(group_relative(REWARDS, ALL, scale=False), unscaled, atol=1e-6)


def test_the_deviation_of_the_batch_is_one_number_over_all():
    expected = divided(CENTRED, (4.75 / 7) ** 0.5)  # 0.75 + 4 over 8 - 1
    assert torch.allclose(advantages(GroupAdvantage("batch"), REWARDS, ALL), expected, atol=1e-6)
    assert torch.allclose(advantages(BatchWhitened("group"), REWARDS, ALL), expected, atol=1e-6)


def test_equal_groups_count_in_the_deviation_of_the_batch():
    rewards = torch.cat([REWARDS, torch.full((1, 4), 0.35)])
    expected = divided([*CENTRED, [0.0] * 4], (4.75 / 11) ** 0.5)
    got = advantages(GroupAdvantage("batch"), rewards, torch.ones(3, 4, dtype=torch.bool))
    assert torch.allclose(got, expected, atol=1e-6)


def test_leave_one_out():
    """1 - mean(0, 0, 0) = 1; 0 - mean(1, 0, 0) = -1/3; 3 - mean(1, 3, 1) = 4/3; 1 - mean(3, 3, 1) = -4/3."""
    third = 1 / 3
    expected = torch.tensor([[1.0, -third, -third, -third], [4 / 3, -4 / 3, 4 / 3, -4 / 3]])
    assert torch.allclose(advantages(LeaveOneOut(), REWARDS, ALL), expected, atol=1e-6)


def test_batch_whitening():
    """Mean 9 / 8; squares of (-1/8, -9/8 x3, 15/8, -1/8, 15/8, -1/8) sum to 696 / 64."""
    offsets = [[-0.125, -1.125, -1.125, -1.125], [1.875, -0.125, 1.875, -0.125]]
    expected = divided(offsets, (696 / 64 / 7) ** 0.5)
    assert torch.allclose(advantages(BatchWhitened(), REWARDS, ALL), expected, atol=1e-6)
    assert not BatchWhitened().needs_group
    assert BatchWhitened("group").needs_group
    assert GroupAdvantage().needs_group


def test_parts_are_normalised_before_they_are_summed():
    """(correct, format) of (1, 0) and (0, 1) have one sum; their parts say +, - and -, +, the weights tell."""
    parts = torch.tensor([[[1.0, 0.0], [0.0, 10.0], [0.0, 0.0], [1.0, 10.0]]])
    graded = torch.ones(1, 4, dtype=torch.bool)
    unit = 0.5 / ((1 / 3) ** 0.5)  # (±0.5) / sqrt(4 * .25 / 3); the second part is ten times that, both ways
    expected = [unit - 2 * unit, -unit + 2 * unit, -unit - 2 * unit, unit + 2 * unit]
    part = PartwiseAdvantage({"correct": 1.0, "format": 2.0})
    assert part.parts == ("correct", "format")
    assert part(parts, graded).tolist()[0] == pytest.approx(expected, abs=1e-4)
    deviation = (sum(e * e for e in expected) / 3) ** 0.5
    then = PartwiseAdvantage({"correct": 1.0, "format": 2.0}, then="batch")(parts, graded)
    assert then.tolist()[0] == pytest.approx([e / deviation for e in expected], abs=1e-4)
    plain = PartwiseAdvantage({"correct": 1.0, "format": -2.0}, deviation="none")(parts, graded)
    assert plain.tolist()[0] == [0.5 + 10, -0.5 - 10, -0.5 + 10, 0.5 - 10]


def test_parts_teach_where_sums_do_not():
    parts = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]])
    graded = torch.ones(2, 2, dtype=torch.bool)
    assert GroupAdvantage().informative(parts, graded).tolist() == [False, False]
    assert PartwiseAdvantage({"a": 1.0, "b": 1.0}).informative(parts, graded).tolist() == [True, False]
    one = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    assert not PartwiseAdvantage({"a": 1.0, "b": 0.0}).informative(one, graded[:1]).any()
    assert PartwiseAdvantage({"a": 1.0, "b": 0.0})(one, graded[:1]).tolist() == [[0.0, 0.0]]


def test_weights_of_parts_are_checked():
    for weights in ({}, {"a": 0.0}, {"a": float("nan")}):
        with pytest.raises(InputError, match="weight for each part"):
            PartwiseAdvantage(weights)
    with pytest.raises(ValueError, match="2 parts and was given 1"):
        PartwiseAdvantage({"a": 1.0, "b": 1.0})(torch.zeros(1, 2, 1), torch.ones(1, 2, dtype=torch.bool))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [0.1, 0.35, 1.0, -7.3, 60000.0])
@pytest.mark.parametrize("part", EVERY)
def test_equal_rewards_give_exactly_zero(part, value, dtype):
    rewards = torch.full((3, 7), value, dtype=dtype)
    graded = torch.ones(3, 7, dtype=torch.bool)
    assert torch.equal(advantages(part, rewards, graded), torch.zeros_like(rewards))
    assert not part.informative(rewards[..., None], graded).any()


@pytest.mark.parametrize("part", EVERY)
def test_ungraded_samples_are_in_no_mean_and_get_zero(part):
    rewards = torch.tensor([[1.0, 0.0, float("nan")], [2.0, 5.0, 5.0], [3.0, 0.0, 9.0]])
    graded = torch.tensor([[True, True, False], [True, False, False], [True, True, False]])
    got = advantages(part, rewards, graded)
    assert torch.equal(got[~graded], torch.zeros(4))
    others = torch.where(graded, rewards, torch.tensor(-50.0))
    assert torch.equal(advantages(part, others, graded), got)
    assert got[0, 0] > got[0, 1]
    lone = not isinstance(part, BatchWhitened) or part.baseline == "group"
    assert part.informative(rewards[..., None], graded).tolist() == [True, not lone, True]
    assert (got[1, 0] == 0) == lone


def test_by_hand_with_ungraded_ones():
    rewards = torch.tensor([[1.0, 0.0, 100.0], [1.0, 5.0, 5.0]])
    graded = torch.tensor([[True, True, False], [True, False, False]])
    got = advantages(GroupAdvantage("none"), rewards, graded)
    assert got.tolist() == [[0.5, -0.5, 0.0], [0.0, 0.0, 0.0]]
    assert advantages(LeaveOneOut(), rewards, graded).tolist() == [[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]]
    assert informative_groups(rewards, graded).tolist() == [True, False]
    batch = advantages(GroupAdvantage("batch"), rewards, graded)  # 0.5 and -0.5 and 0: sqrt(0.5 / 2) = 0.5
    assert batch.tolist()[0] == pytest.approx([1.0, -1.0, 0.0], abs=1e-5)


def test_reward_parts_are_summed():
    parts = torch.tensor([[[1.0, 0.5], [0.0, 0.5]]])
    out = GroupAdvantage("none")(parts, torch.ones(1, 2, dtype=torch.bool))
    assert out.tolist() == [[0.5, -0.5]]


def test_effective_samples():
    assert effective_samples(torch.tensor([2.0, -2.0, 2.0, 0.0])) == pytest.approx(3.0)
    assert effective_samples(torch.tensor([3.0, 1.0])) == pytest.approx(16 / 10)
    assert effective_samples(torch.tensor([1e30, 1e-30])) == pytest.approx(1.0)
    assert effective_samples(torch.tensor([1e-30, -1e-30])) == pytest.approx(2.0)
    assert effective_samples(torch.zeros(4)) == 0
    assert effective_samples(torch.zeros(0)) == 0


@given(st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=8), st.floats(-5, 5, width=32))
def test_shift_changes_nothing_and_the_group_sums_to_zero(values, shift):
    graded = torch.ones(1, len(values), dtype=torch.bool)
    plain = group_relative(torch.tensor([values]), graded, scale=False)
    moved = group_relative(torch.tensor([values]) + shift, graded, scale=False)
    assert plain.sum().abs() < 1e-4
    assert torch.allclose(plain, moved, atol=1e-4)
