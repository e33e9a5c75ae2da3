"""DPO's optimum on a problem small enough to list: pi* is proportional to pi_ref exp(reward / beta)."""

import pytest
import torch

from lit_posttrain.contracts import PairLogprobs
from lit_posttrain.objectives.divergences import ForwardKL, JensenShannon
from lit_posttrain.objectives.log_ratio_losses import Robust
from lit_posttrain.objectives.preference import Sigmoid

REWARDS = torch.tensor([0.3, -0.8, 1.1, 0.0, -0.4], dtype=torch.float64)
REFERENCE = torch.tensor([0.3, 0.2, 0.1, 0.25, 0.15], dtype=torch.float64)
FIRST, SECOND = torch.combinations(torch.arange(5)).T
SIDES = [torch.cat([FIRST, SECOND]), torch.cat([SECOND, FIRST])]  # every pair, either way round
CHANCE = torch.sigmoid(REWARDS[SIDES[0]] - REWARDS[SIDES[1]]) / len(FIRST)
EXACT = {"tolerance_grad": 1e-12, "tolerance_change": 1e-16}


def optimum(loss, reference, chance=CHANCE):
    """The policy (5,) that has the lowest expected loss over all pairs and labels, by descent on its logits."""
    before, logits = reference.clone(), reference.log().requires_grad_()
    ones = torch.ones(len(chance))
    search = torch.optim.LBFGS([logits], max_iter=500, line_search_fn="strong_wolfe", **EXACT)

    def expected():
        search.zero_grad()
        sides = [values[side] for values in (logits.log_softmax(0), reference.log()) for side in SIDES]
        value = (chance * loss(PairLogprobs(*sides[:2], ones, ones, *sides[2:]))[0]).sum()
        value.backward()
        return value

    search.step(expected)
    assert torch.equal(reference, before)
    return logits.detach().softmax(0)


def tilted(reference, beta, rewards=REWARDS):
    weights = reference * (rewards / beta).exp()
    return weights / weights.sum()


def distance(one, other):
    return float((one - other).abs().sum() / 2)


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_the_policy_is_the_reference_tilted_by_the_rewards(beta):
    policy = optimum(Sigmoid(beta), REFERENCE)
    assert distance(policy, tilted(REFERENCE, beta)) < 1e-5
    assert distance(policy, REFERENCE) > 0.1


def test_with_the_reference_reset_it_moves_on():
    once = optimum(Sigmoid(1.0), REFERENCE)
    twice = optimum(Sigmoid(1.0), once)
    assert distance(twice, tilted(REFERENCE, 0.5)) < 1e-5


def test_robust_dpo_recovers_it_from_flipped_labels():
    flipped = 0.8 * CHANCE + 0.2 * CHANCE.roll(len(FIRST))
    assert distance(optimum(Robust(1.0, 0.2), REFERENCE, flipped), tilted(REFERENCE, 1.0)) < 1e-5
    assert distance(optimum(Sigmoid(1.0), REFERENCE, flipped), tilted(REFERENCE, 1.0)) > 0.02


def test_other_divergences_have_their_own_optimum():
    # f'(u) = (r - c) / beta with sum pi_ref u = 1. Forward KL: u = beta / (c - r). Jensen-Shannon:
    # u = 1 / (2 exp(-(r - c) / beta) - 1)
    forward = solved(lambda c: 1.0 / (c - REWARDS), low=1.1001, high=60.0)
    assert distance(optimum(Sigmoid(1.0, 0.0, ForwardKL()), REFERENCE), REFERENCE * forward) < 1e-5
    top = float(REWARDS.max()) - 2.0 * 0.6931
    shannon = solved(lambda c: 1 / (2 * torch.exp(-(REWARDS - c) / 2.0) - 1), low=top + 1e-3, high=20.0)
    assert distance(optimum(Sigmoid(2.0, 0.0, JensenShannon()), REFERENCE), REFERENCE * shannon) < 1e-5


def solved(ratio, low, high):
    """The ratio u(c) whose mean under the reference is 1, by halving; it falls in c."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float((REFERENCE * ratio(middle)).sum()) > 1 else (low, middle)
    return ratio(low)
