"""The clipped surrogate against values worked by hand."""

import math

import pytest
import torch

from lit_posttrain.batches import Experience
from lit_posttrain.objectives.language import negative_log_likelihood
from lit_posttrain.objectives.policy import Clipped, clipped_surrogate

R = [1.5, 1.5, 0.5, 0.5, 1.1]
A = [1.0, -1.0, 1.0, -1.0, 2.0]
EXPECTED = [-1.28, 1.5, -0.5, 0.8, -2.2]  # clip to [0.8, 1.28]; the pessimistic one of the two
LIVE = [0.0, 1.5, -0.5, 0.0, -2.2]  # d loss / d log r = -A r where the bound does not hold, else 0


def test_values_and_gradients_by_hand():
    log_ratio = torch.tensor([R]).log().requires_grad_()
    loss = clipped_surrogate(log_ratio, torch.tensor([A]), low=0.2, high=0.28)
    assert loss.tolist()[0] == pytest.approx(EXPECTED, abs=1e-6)
    loss.sum().backward()
    assert log_ratio.grad.tolist()[0] == pytest.approx(LIVE, abs=1e-6)


def test_part_reports_what_holds():
    old = torch.zeros(1, 5)
    experience = Experience(old_logprobs=old, advantages=torch.tensor([A]))
    loss, stats = Clipped(0.2, 0.28)(torch.tensor([R]).log(), experience)
    assert loss.tolist()[0] == pytest.approx(EXPECTED, abs=1e-6)
    assert stats["policy/clipped_high_fraction"].tolist() == [[1, 0, 0, 0, 0]]
    assert stats["policy/clipped_low_fraction"].tolist() == [[0, 0, 0, 1, 0]]
    assert stats["policy/ratio_mean"].tolist()[0] == pytest.approx(R, abs=1e-6)


@pytest.mark.parametrize("gap", [1e3, -1e3])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_extreme_ratios_stay_finite(gap, advantage):
    log_ratio = torch.full((1, 1), gap, requires_grad=True)
    loss = clipped_surrogate(log_ratio, torch.full((1, 1), advantage), low=0.2, high=0.2)
    loss.sum().backward()
    assert math.isfinite(loss.item())
    assert math.isfinite(log_ratio.grad.item())


def test_bounds_are_checked():
    with pytest.raises(ValueError, match="clip bounds"):
        Clipped(low=-0.1)


def test_negative_log_likelihood():
    assert negative_log_likelihood(torch.tensor([[-1.5, 0.0]])).tolist() == [[1.5, 0.0]]
