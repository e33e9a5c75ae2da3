"""DPO on a problem that can be listed, with pairs drawn afresh: `python tools/check_dpo_law.py [--pairs N]`.

12 completions with rewards r and a reference pi_ref. Each step draws pairs of them from pi_ref, labels them by a coin
with chance sigmoid(r_first - r_second), and moves the logits of a policy by Adam on our Sigmoid loss; the rate decays
to 0. Then pi* is proportional to pi_ref exp(r / beta). Prints the total variation between both, for two values of
beta, without and with the reference set to the policy half way, where it moves on to pi_ref exp(2r / beta). Exit
code 1 where one is not below 0.02, or where the reference has changed by itself.
"""

import argparse
import sys
from math import cos, pi

import torch
from torch import Tensor

from lit_posttrain.contracts import PairLogprobs
from lit_posttrain.objectives.preference import Sigmoid

COMPLETIONS, BATCH, LIMIT = 12, 5_000, 0.02


def problem(seed: int) -> tuple[Tensor, Tensor]:
    """Rewards and log-probs of the reference (12,)."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(COMPLETIONS, generator=draw), torch.randn(COMPLETIONS, generator=draw).log_softmax(0)


def drawn(rewards: Tensor, reference: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Winners and losers of a batch of pairs, as places in the list."""
    both = torch.multinomial(reference.exp(), 2 * BATCH, replacement=True, generator=draw).reshape(2, BATCH)
    first_wins = torch.rand(BATCH, generator=draw) < torch.sigmoid(rewards[both[0]] - rewards[both[1]])
    return torch.where(first_wins, both[0], both[1]), torch.where(first_wins, both[1], both[0])


def trained(logits: Tensor, rewards: Tensor, reference: Tensor, beta: float, steps: int, seed: int) -> Tensor:
    """The logits after training from `logits`, with pairs from the data's own reference and labels by `rewards`."""
    draw, loss, ones = torch.Generator().manual_seed(seed), Sigmoid(beta), torch.ones(BATCH)
    sampled_from = problem(0)[1]
    logits = logits.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 + cos(pi * step / steps)) / 2)
    for _ in range(steps):
        winners, losers = drawn(rewards, sampled_from, draw)
        policy = logits.log_softmax(0)
        sides = policy[winners], policy[losers], ones, ones, reference[winners], reference[losers]
        optimizer.zero_grad()
        loss(PairLogprobs(*sides))[0].mean().backward()
        optimizer.step()
        schedule.step()
    return logits.detach()


def distance(logits: Tensor, rewards: Tensor, reference: Tensor, beta: float) -> float:
    """Total variation to the reference tilted by exp(rewards / beta)."""
    return float((logits.softmax(0) - (reference + rewards / beta).softmax(0)).abs().sum() / 2)


def check(beta: float, steps: int) -> bool:
    """Prints one value of beta; whether the law holds."""
    rewards, reference = problem(0)
    before = reference.clone()
    once = trained(reference, rewards, reference, beta, steps, seed=1)
    twice = trained(once, rewards, once.log_softmax(0), beta, steps, seed=2)
    start = distance(reference, rewards, reference, beta)
    first = distance(once, rewards, reference, beta)
    second = distance(twice, rewards, reference, beta / 2)
    moved = distance(twice, rewards, reference, beta)
    print(
        f"beta {beta}: {2 * steps * BATCH:,} pairs; to pi_ref exp(r/beta) {start:.4f} before, {first:.4f} after; "
        f"reference reset: {second:.4f} to pi_ref exp(2r/beta), {moved:.4f} from the first optimum"
    )
    return first < LIMIT and second < LIMIT and moved > LIMIT and torch.equal(before, reference)


def main() -> int:
    """Both values of beta."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=6_000_000, help="drawn for each of the two trainings")
    steps = parser.parse_args().pairs // BATCH
    held = [check(beta, steps) for beta in (0.5, 1.5)]
    return int(not all(held))


if __name__ == "__main__":
    sys.exit(main())
