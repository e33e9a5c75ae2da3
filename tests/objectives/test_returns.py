"""Advantages of tokens against hand-worked values, and against a sum over all pairs of tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_posttrain.errors import InputError
from lit_posttrain.objectives.returns import GAE, StepReturns, adaptive_trace, gae

NAN = float("nan")


def by_pairs(rewards, values, mask, discount, traces):
    """Row by row the sum over later masked tokens of (discount trace)^k times their one-step errors."""
    out = torch.zeros_like(values)
    for row in range(len(values)):
        places = mask[row].nonzero().flatten().tolist()
        errors = []
        for k, t in enumerate(places):
            following = values[row, places[k + 1]] if k + 1 < len(places) else 0.0
            errors.append(rewards[row, t] + discount * following - values[row, t])
        for k, t in enumerate(places):
            out[row, t] = sum((discount * traces[row]) ** (j - k) * errors[j] for j in range(k, len(places)))
    return out


def test_by_hand():
    """Errors: 0.5 * 2 - 1 = 0, 0.5 * 4 - 2 = 0, 3 - 4 = -1; decay 0.5 * 0.5."""
    rewards, values = torch.tensor([[0.0, 0.0, 0.0, 3.0]]), torch.tensor([[9.0, 1.0, 2.0, 4.0]])
    mask = torch.tensor([[False, True, True, True]])
    expected = [[0.0, -0.0625, -0.25, -1.0]]
    assert gae(rewards, values, mask, discount=0.5, trace=0.5).tolist() == expected
    advantages, returns = GAE(discount=0.5, trace=0.5)(rewards, values, mask)
    assert advantages.tolist() == expected
    assert returns.tolist() == [[0.0, 0.9375, 1.75, 3.0]]


def test_injected_tokens_are_passed_over():
    """The two middle tokens are not the model's: what stands there is as if it did not exist."""
    mask = torch.tensor([[True, False, False, True]])
    rewards, values = torch.tensor([[0.0, 7.0, NAN, 1.0]]), torch.tensor([[0.25, NAN, 7.0, 0.5]])
    dense = gae(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.25, 0.5]]), torch.ones(1, 2, dtype=torch.bool))
    got = gae(rewards, values, mask)
    assert got[mask].tolist() == dense[0].tolist()
    assert got.tolist()[0][0] == pytest.approx(0.25 + 0.95 * 0.5)  # 0.5 - 0.25, and 1 - 0.5 behind it
    assert got[~mask].tolist() == [0.0, 0.0]
    for part in (GAE(), StepReturns()):
        for out in part(rewards, values, mask):
            assert out[~mask].tolist() == [0.0, 0.0]
            assert out.isfinite().all()


@st.composite
def rows(draw):
    """Rewards, values, mask (B, T) with random lengths, holes, empty rows, and garbage outside the mask."""
    count, width = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    mask = torch.rand(count, width, generator=generator) < draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    lengths = torch.randint(0, width + 1, (count, 1), generator=generator)
    mask &= torch.arange(width) < lengths
    rewards, values = (torch.randn(count, width, generator=generator, dtype=torch.float64) for _ in range(2))
    return rewards.masked_fill(~mask, NAN), values.masked_fill(~mask, NAN), mask


@settings(deadline=None)
@given(rows(), st.sampled_from([0.0, 0.5, 0.99, 1.0]), st.sampled_from([0.0, 0.3, 0.95, 1.0]))
def test_equals_the_double_loop(case, discount, trace):
    rewards, values, mask = case
    expected = by_pairs(rewards, values, mask, discount, [trace] * len(mask))
    assert torch.allclose(gae(rewards, values, mask, discount=discount, trace=trace), expected, atol=1e-9)


@settings(deadline=None)
@given(rows(), st.sampled_from([0.5, 1.0]))
def test_ends_of_the_trace(case, discount):
    """A trace of 1 gives Monte-Carlo returns whatever the values say, 0 the errors of one step."""
    rewards, values, mask = case
    _, far = GAE(discount=discount, trace=1.0)(rewards, values, mask)
    near = gae(rewards, values, mask, discount=discount, trace=0.0)
    for row in range(len(mask)):
        total, following = 0.0, 0.0
        for t in reversed(mask[row].nonzero().flatten().tolist()):
            total = rewards[row, t] + discount * total
            assert far[row, t] == pytest.approx(float(total), abs=1e-9)
            error = rewards[row, t] + discount * following - values[row, t]
            assert near[row, t] == pytest.approx(float(error), abs=1e-9)
            following = values[row, t]


@settings(deadline=None)
@given(rows(), st.sampled_from([0.5, 1.0]))
def test_step_returns_sum_later_rewards(case, discount):
    rewards, _, mask = case
    advantages, returns = StepReturns(discount)(rewards, None, mask)
    zero = torch.zeros_like(rewards)
    assert torch.allclose(advantages, by_pairs(rewards, zero, mask, discount, [1.0] * len(mask)), atol=1e-9)
    assert torch.equal(advantages, returns)
    assert not StepReturns().needs_values
    assert GAE().needs_values


@settings(deadline=None)
@given(rows(), st.sampled_from([0.05, 0.5, 2.0]))
def test_the_trace_follows_the_length(case, alpha):
    rewards, values, mask = case
    traces = [max(0.0, 1 - 1 / (alpha * n)) if n else 0.0 for n in mask.sum(1).tolist()]
    advantages, returns = GAE(adaptive=alpha, value_trace=1.0)(rewards, values, mask)
    assert torch.allclose(advantages, by_pairs(rewards, values, mask, 1.0, traces), atol=1e-6)
    sums, _ = StepReturns()(rewards, None, mask)
    assert torch.allclose(returns, sums, atol=1e-9)


def test_adaptive_trace_by_hand():
    mask = torch.zeros(3, 100, dtype=torch.bool)
    mask[0], mask[1, :10] = True, True
    assert adaptive_trace(mask, 0.05).tolist() == pytest.approx([0.8, 0.0, 0.0])


def test_settings_are_checked():
    for wrong in ({"discount": 1.1}, {"trace": -0.1}, {"value_trace": 2.0}, {"adaptive": 0.0}):
        with pytest.raises(InputError):
            GAE(**wrong)
    with pytest.raises(InputError, match="discount"):
        StepReturns(discount=-1.0)
    ones = torch.ones(1, 1)
    with pytest.raises(ValueError, match="needs the value"):
        GAE()(ones, None, ones > 0)
