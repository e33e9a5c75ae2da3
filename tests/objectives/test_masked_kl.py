"""Masked reductions and KL estimates against values worked by hand."""

import math

import pytest
import torch

from lit_posttrain.objectives.kl import k1, k2, k3
from lit_posttrain.objectives.masked import masked_mean, masked_sum, per_token, segment_sum, weighted_sum

NAN, INF = float("nan"), float("inf")


def test_masked_reductions_ignore_what_is_outside():
    values = torch.tensor([[1.0, NAN, 3.0], [INF, 5.0, -2.0]])
    mask = torch.tensor([[True, False, True], [False, True, False]])
    assert masked_sum(values, mask) == 9.0
    assert masked_mean(values, mask) == 3.0
    assert masked_mean(values, torch.zeros_like(mask)) == 0.0


def test_weighted_sum_gives_no_gradient_where_the_weight_is_zero():
    values = torch.tensor([[2.0, NAN, INF, 4.0]], requires_grad=True)
    weights = torch.tensor([[0.5, 0.0, 0.0, 0.25]])
    loss = weighted_sum(values, weights)
    loss.backward()
    assert loss.item() == 2.0
    assert torch.equal(values.grad, weights)


def test_segment_sum_and_per_token_are_inverse_ways():
    segments = torch.tensor([[1, 1, 2, 0], [3, 3, 3, 0]])
    values = torch.tensor([[1.0, 2.0, 5.0, 9.0], [1.0, 1.0, 1.0, 9.0]])
    sums = segment_sum(values, segments, 3)
    assert sums.tolist() == [3.0, 5.0, 3.0]
    assert per_token(sums, segments).tolist() == [[3.0, 3.0, 5.0, 0.0], [3.0, 3.0, 3.0, 0.0]]


def test_kl_estimates_by_hand():
    policy, other = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -1.0])
    assert k1(policy, other).tolist() == [0.5, -1.0]
    assert k2(policy, other).tolist() == [0.125, 0.5]
    expected = [math.exp(-0.5) - 1 + 0.5, math.exp(1.0) - 1 - 1.0]
    assert k3(policy, other).tolist() == pytest.approx(expected, abs=1e-6)


def test_estimates_agree_with_the_exact_kl_in_expectation():
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.5, 0.3])
    exact = (p * (p / q).log()).sum()
    assert (p * k1(p.log(), q.log())).sum() == pytest.approx(exact.item(), abs=1e-6)
    assert (p * k3(p.log(), q.log())).sum() == pytest.approx(exact.item(), abs=1e-6)


def test_gradients_on_a_three_token_bandit():
    """The expected gradient of k2 as a loss is the true KL's; k1 as a loss teaches nothing (PITFALLS 40)."""
    logits = torch.tensor([0.3, -0.2, 0.1], requires_grad=True)
    reference = torch.tensor([0.6, 0.1, 0.3]).log()
    exact = (logits.softmax(0) * (logits.log_softmax(0) - reference)).sum()
    (true_gradient,) = torch.autograd.grad(exact, logits)
    sampling = logits.detach().softmax(0)
    (of_k2,) = torch.autograd.grad((sampling * k2(logits.log_softmax(0), reference)).sum(), logits)
    (of_k1,) = torch.autograd.grad((sampling * k1(logits.log_softmax(0), reference)).sum(), logits)
    assert torch.allclose(of_k2, true_gradient, atol=1e-6)
    assert torch.allclose(of_k1, torch.zeros(3), atol=1e-6)


@pytest.mark.parametrize("gap", [0.0, 1e3, -1e3])
def test_k3_is_finite_and_never_negative(gap):
    policy = torch.tensor([-1.0], requires_grad=True)
    value = k3(policy, policy.detach() + gap)
    value.sum().backward()
    assert value.item() >= 0
    assert math.isfinite(value.item())
    assert math.isfinite(policy.grad.item())
