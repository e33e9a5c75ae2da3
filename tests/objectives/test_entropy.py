"""The entropy bonus and its target."""

import math

import pytest
import torch

from lit_posttrain.errors import InputError
from lit_posttrain.objectives.entropy import EntropyBonus


def test_the_term_rewards_entropy():
    entropy = torch.tensor([[2.0, 0.5]], requires_grad=True)
    term = EntropyBonus(0.1).term(entropy, 0.3)
    assert term.tolist()[0] == pytest.approx([-0.6, -0.15])
    term.sum().backward()
    assert entropy.grad.tolist()[0] == pytest.approx([-0.3, -0.3])


def test_without_a_target_the_weight_stays():
    assert EntropyBonus(0.1).next(0.02, 0.0) == 0.02


def test_the_weight_follows_the_target():
    part = EntropyBonus(0.1, target_nats=0.5, rate=0.2, most=0.11)
    assert part.next(0.01, 0.4) == pytest.approx(0.01 * math.exp(0.2))
    assert part.next(0.01, 0.6) == pytest.approx(0.01 * math.exp(-0.2))
    assert part.next(0.01, 0.5) == 0.01
    assert part.next(0.11, 0.4) == 0.11
    assert part.next(1e-6, 0.6) == 1e-6


def test_settings_are_checked():
    with pytest.raises(InputError, match="penalty"):
        EntropyBonus(-0.1)
    for wrong in ({"target_nats": 0.0}, {"rate": 0.0}, {"coefficient": 2.0}, {"coefficient": 0.0}):
        with pytest.raises(InputError, match="target of the entropy"):
            EntropyBonus(**{"target_nats": 0.5, **wrong})
