"""Losses of values, explained variance and whitening against values worked by hand."""

import pytest
import torch

from lit_posttrain.objectives.value import explained_variance, value_loss, whitened
from lit_posttrain.objectives.whitening import EPSILON

MASK = torch.tensor([[True, True, False], [True, True, False]])


def test_value_loss_by_hand():
    """Old 0, clip 0.5. Towards the return 2: 1 counts as 0.5, loss 1.5² / 2, held. Away from it, -1: its own, 3² / 2.
    Within the clip: its own. Beyond the return already, 3 for 2: held at 0.5, the larger error."""
    values = torch.tensor([[1.0, -1.0, 0.25, 3.0]], requires_grad=True)
    old, returns = torch.zeros(1, 4), torch.full((1, 4), 2.0)
    loss, held = value_loss(values, old, returns, clip=0.5)
    assert loss.tolist()[0] == pytest.approx([1.125, 4.5, 1.75**2 / 2, 1.125])
    assert held.tolist() == [[True, False, False, True]]
    loss.sum().backward()
    assert values.grad.tolist()[0] == pytest.approx([0.0, -3.0, -1.75, 0.0])
    plain, held = value_loss(values, old, returns, clip=None)
    assert plain.tolist()[0] == pytest.approx([0.5, 4.5, 1.75**2 / 2, 0.5])
    assert not held.any()


def test_explained_variance_by_hand():
    """Returns 0, 2, 4, 6 have variance 5; errors ±1 have variance 1."""
    returns = torch.tensor([[0.0, 2.0, 99.0], [4.0, 6.0, 99.0]])
    errors = torch.tensor([[1.0, -1.0, 50.0], [1.0, -1.0, 70.0]])
    assert explained_variance(returns - errors, returns, MASK).item() == pytest.approx(0.8)
    assert explained_variance(returns, returns, MASK) == 1
    assert explained_variance(returns + 3, returns, MASK).item() == pytest.approx(1.0)
    assert explained_variance(torch.zeros_like(returns), returns, MASK).item() == pytest.approx(0.0)
    assert explained_variance(-returns, returns, MASK).item() == pytest.approx(-3.0)


def test_without_variance_nothing_is_explained():
    values = torch.tensor([[0.1, 0.2, 0.3], [1.0, 2.0, 3.0]])
    assert explained_variance(values, torch.full_like(values, 0.1), MASK) == 0
    assert explained_variance(values, values, torch.zeros_like(MASK)) == 0


def test_whitened_by_hand():
    """0, 2, 4, 6: mean 3, unbiased variance 20 / 3."""
    values = torch.tensor([[0.0, 2.0, float("nan")], [4.0, 6.0, 99.0]])
    deviation = (20 / 3) ** 0.5 + EPSILON
    expected = torch.tensor([[-3.0, -1.0, 0.0], [1.0, 3.0, 0.0]]) / deviation
    assert torch.allclose(whitened(values, MASK, keep_mean=False), expected, atol=1e-6)
    kept = torch.where(MASK, expected + 3, 0.0)
    assert torch.allclose(whitened(values, MASK, keep_mean=True), kept, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_whitening_of_equal_values_is_exact(dtype):
    values = torch.full((5, 7), 0.35, dtype=dtype)
    mask = torch.ones(5, 7, dtype=torch.bool)
    mask[:, 0] = False
    assert torch.equal(whitened(values, mask, keep_mean=False), torch.zeros_like(values))
    assert torch.equal(whitened(values, mask, keep_mean=True), torch.where(mask, values, 0.0))
    assert torch.equal(whitened(values, mask & False, keep_mean=True), torch.zeros_like(values))
