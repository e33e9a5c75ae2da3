"""Group-relative advantages against values worked by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_posttrain.objectives.advantages import EPSILON, GroupAdvantage, group_relative, informative_groups


def test_two_groups_of_different_variance():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [3.0, 1.0, 3.0, 1.0]])
    graded = torch.ones(2, 4, dtype=torch.bool)
    deviations = (0.5, (4 / 3) ** 0.5)  # unbiased: sqrt((.5625 + 3 * .0625) / 3), sqrt(4 / 3)
    expected = [
        [0.75 / (deviations[0] + EPSILON)] + [-0.25 / (deviations[0] + EPSILON)] * 3,
        [s / (deviations[1] + EPSILON) for s in (1.0, -1.0, 1.0, -1.0)],
    ]
    assert torch.allclose(group_relative(rewards, graded), torch.tensor(expected), atol=1e-6)
    unscaled = [[0.75, -0.25, -0.25, -0.25], [1.0, -1.0, 1.0, -1.0]]
    assert torch.allclose(group_relative(rewards, graded, scale=False), torch.tensor(unscaled), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [0.1, 0.35, 1.0, -7.3])
def test_equal_rewards_give_exactly_zero(dtype, value):
    rewards = torch.full((3, 7), value, dtype=dtype)
    advantages = group_relative(rewards, torch.ones(3, 7, dtype=torch.bool))
    assert torch.equal(advantages, torch.zeros_like(rewards))


def test_ungraded_samples_are_out_of_the_mean_and_get_zero():
    rewards = torch.tensor([[1.0, 0.0, 100.0], [1.0, 5.0, 5.0]])
    graded = torch.tensor([[True, True, False], [True, False, False]])
    advantages = group_relative(rewards, graded, scale=False)
    assert advantages.tolist() == [[0.5, -0.5, 0.0], [0.0, 0.0, 0.0]]
    assert informative_groups(rewards, graded).tolist() == [True, False]


def test_reward_parts_are_summed():
    parts = torch.tensor([[[1.0, 0.5], [0.0, 0.5]]])
    out = GroupAdvantage(scale=False)(parts, torch.ones(1, 2, dtype=torch.bool))
    assert out.tolist() == [[0.5, -0.5]]


@given(st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=8), st.floats(-5, 5, width=32))
def test_shift_changes_nothing_and_the_group_sums_to_zero(values, shift):
    graded = torch.ones(1, len(values), dtype=torch.bool)
    plain = group_relative(torch.tensor([values]), graded, scale=False)
    moved = group_relative(torch.tensor([values]) + shift, graded, scale=False)
    assert plain.sum().abs() < 1e-4
    assert torch.allclose(plain, moved, atol=1e-4)
