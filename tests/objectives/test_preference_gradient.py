"""The gradient's weight as logged is the ratio of the norms of two gradients by the parameters of a network."""

import pytest
import torch
from fakes import tiny

from lit_posttrain.batches import TokenBatch
from lit_posttrain.contracts import PairLogprobs
from lit_posttrain.networks import build, token_logprobs
from lit_posttrain.objectives.log_ratio_losses import IPO, Hinge, Robust
from lit_posttrain.objectives.preference import Sigmoid
from lit_posttrain.objectives.reference_free import SimPO

LENGTHS = torch.tensor([6, 9, 4, 5, 8, 7])  # completions of 3 pairs: the chosen sides, then the rejected ones
PROMPT, WIDTH = 3, 12
LOSSES = [
    Sigmoid(0.1),
    Sigmoid(2.0),
    Sigmoid(0.5, smoothing=0.2),
    IPO(0.05),
    Hinge(0.1),
    Robust(0.3, 0.2),
    SimPO(),
]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build(tiny())


def batch_of_pairs() -> TokenBatch:
    places = torch.arange(WIDTH).expand(6, WIDTH)
    live = places < PROMPT + LENGTHS[:, None]
    tokens = torch.randint(3, 16, (6, WIDTH), generator=torch.Generator().manual_seed(1))
    rows = torch.arange(1, 7)[:, None].expand(6, WIDTH)
    mask = live & (places >= PROMPT)
    return TokenBatch(tokens * live, rows * live, places * live, mask, mask.float())


def pairs_of(network, averaged: bool) -> PairLogprobs:
    sums = token_logprobs(network, batch_of_pairs()).sum(dim=1)
    logprobs = sums / LENGTHS if averaged else sums
    reference = torch.tensor([-15.0, -22.0, -11.0, -14.0, -21.0, -18.0])
    return PairLogprobs(*logprobs.split(3), *LENGTHS.split(3), *reference.split(3))


def norm(network, value: torch.Tensor) -> float:
    gradients = torch.autograd.grad(value, list(network.parameters()), retain_graph=True)
    return float(torch.cat([g.reshape(-1) for g in gradients]).double().norm())


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_the_logged_weight_is_the_ratio_of_gradient_norms(network, loss):
    pairs = pairs_of(network, averaged=loss.reduction == "averaged")
    losses, stats = loss(pairs)
    logged = stats["preference/gradient_weight"]
    for i in range(3):
        measured = norm(network, losses[i]) / norm(network, pairs.chosen[i] - pairs.rejected[i])
        assert abs(float(logged[i])) == pytest.approx(measured, rel=1e-4, abs=1e-6)
    assert logged.abs().max() > 0.01


def test_of_dpo_it_is_beta_sigmoid_of_minus_the_margin(network):
    _, stats = Sigmoid(0.1)(pairs_of(network, averaged=False))
    margin = stats["preference/margin"].double()
    assert margin.abs().min() > 1e-3
    expected = 0.1 / (1 + margin.exp())
    assert stats["preference/gradient_weight"].tolist() == pytest.approx(expected.tolist(), rel=1e-6)
