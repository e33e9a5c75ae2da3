"""Losses of single completions against values worked by hand."""

import pytest
import torch

from lit_posttrain.errors import InputError
from lit_posttrain.objectives.unpaired import KTO, APOZeroUnpaired

# log-ratios 1, -1, 2; two are wanted, the third is not and counts twice; beta 0.5
DESIRABLE = torch.tensor([True, True, False])


def run(loss, kl):
    logprobs = torch.tensor([-2.0, -4.0, -1.0], requires_grad=True)
    losses, stats = loss(logprobs, torch.tensor([-3.0, -3.0, -3.0]), DESIRABLE, torch.tensor(kl))
    losses.sum().backward()
    return losses.tolist(), logprobs.grad.tolist(), stats


def test_kto():
    # KL 0.5: excess 0.25, -0.75, 0.75; 1 - sigmoid(0.25), 1 - sigmoid(-0.75), 2 (1 - sigmoid(-0.75))
    losses, gradient, stats = run(KTO(0.5, 1.0, 2.0), 0.5)
    assert losses == pytest.approx([0.437823, 0.679179, 1.358357], abs=1e-6)
    # -0.5 sigmoid(x) sigmoid(-x): 0.246134, 0.217895; the third is + 2 * 0.5 * 0.217895
    assert gradient == pytest.approx([-0.123067, -0.108947, 0.217895], abs=1e-6)
    assert stats["preference/gradient_weight"].tolist() == pytest.approx(
        [0.123067, 0.108947, 0.217895], abs=1e-6
    )
    assert stats["preference/margin"].tolist() == [0.25, -0.75, -0.75]
    assert stats["preference/accuracy"].tolist() == [1.0, 0.0, 0.0]
    assert stats["preference/reward"].tolist() == [0.5, -0.5, 1.0]


def test_a_negative_estimate_counts_as_no_divergence():
    assert run(KTO(0.5), -3.0)[0] == run(KTO(0.5), 0.0)[0]
    assert run(KTO(0.5), 0.1)[0] != run(KTO(0.5), 0.0)[0]


def test_the_estimate_has_no_gradient():
    kl = torch.tensor(0.5, requires_grad=True)
    logprobs = torch.tensor([-2.0, -4.0, -1.0], requires_grad=True)
    KTO()(logprobs, torch.zeros(3), DESIRABLE, kl)[0].sum().backward()
    assert kl.grad is None


def test_apo_ignores_the_estimate():
    # excess 0.5, -0.5, 1: 1 - sigmoid(0.5), 1 - sigmoid(-0.5), 2 sigmoid(1)
    losses, gradient, _ = run(APOZeroUnpaired(0.5, 1.0, 2.0), 7.0)
    assert losses == pytest.approx([0.377541, 0.622459, 1.462117], abs=1e-6)
    assert gradient == pytest.approx([-0.117502, -0.117502, 0.196612], abs=1e-6)


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extremes_stay_finite(size):
    logprobs = torch.full((2,), size, requires_grad=True)
    losses, stats = KTO()(logprobs, torch.zeros(2), torch.tensor([True, False]), torch.tensor(0.0))
    losses.sum().backward()
    for value in (losses, logprobs.grad, *stats.values()):
        assert torch.isfinite(value).all()


def test_settings_are_checked():
    with pytest.raises(InputError, match="desirable_weight above 0"):
        KTO(desirable_weight=0.0)
    with pytest.raises(InputError, match="APO needs beta"):
        APOZeroUnpaired(beta=0.0)
