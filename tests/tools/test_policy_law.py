"""The exact law of policy gradients with a KL: gradients of every way, and short runs of the real modules."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
from policy_law import gradients, problem
from policy_law.learning import Law, learn

EXACT = ("k1 in the reward", "k2 in the loss, over the sequence", "k3 in the loss, with importance")


def test_which_ways_have_the_gradient_of_the_kl():
    rows = gradients.rows(seed=1)
    for name, row in rows.items():
        assert row.sampled < 3, name  # what is drawn agrees with what is summed
        if name in EXACT:
            assert row.distance < 1e-4, name
            assert row.cosine > 0.9999, name
        elif name == "k1 in the loss":
            assert row.size < 1e-4
        else:
            assert row.distance > 0.1, name


def test_the_problem_and_its_optima():
    assert len(problem.sequences()) == len(set(problem.sequences())) == 85
    reference = torch.randn(85, generator=torch.Generator().manual_seed(0)).double().log_softmax(0)
    reward = problem.rewards(0)
    best = problem.best(reference, reward, 0.5)
    # where all of pi* is reached, r - beta log(pi / pi_ref) is one and the same number
    left = reward.double() - 0.5 * (best.log() - reference)
    assert float(left.std()) < 1e-12
    forward = problem.forward_best(reference, reward, 0.5)
    level = reward.double() + 0.5 * reference.exp() / forward
    assert float(level.std()) < 1e-6
    assert float(forward.sum()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("case", ["grpo-reward-k1", "ppo-reward-k1", "grpo-loss-k2"])
def test_short_runs_come_near(case):
    found = learn(Law(case, 0.5, seed=0, steps=200, batch=256))
    assert found.start > 0.5
    assert found.to_best < 0.15
    assert found.to_best < found.to_forward
    assert found.reference_untouched


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.5, 0.1])
@pytest.mark.parametrize("case", ["grpo-reward-k1", "ppo-reward-k1", "grpo-loss-k2", "ppo-loss-k2"])
def test_long_runs_arrive(case, beta):
    assert learn(Law(case, beta, seed=0, steps=1000)).to_best < 0.02
