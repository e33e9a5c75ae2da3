"""Whether Bradley-Terry finds the rewards that preferences were drawn from: `python tools/check_bradley_terry.py`.

2,000 items with 8 features have a known reward that is no linear function of them. Pairs of 1,600 of them are labelled
by a coin with chance sigmoid(r_first - r_second), and a small network learns scores from the labels alone, with our
BradleyTerry loss. On the 400 items that it never saw: the rank correlation of score and reward, and the calibration
error of sigmoid(score difference) on fresh pairs, the mean over 15 bins, by pairs, of |predicted - won|. A second run
has centring. Exit code 1 unless the correlation is above 0.98 and the error below 0.03.
"""

import sys

import torch
from torch import Tensor, nn

from lit_posttrain.objectives.preference import BradleyTerry

ITEMS, HELD_OUT, FEATURES, BINS = 2_000, 400, 8, 15
STEPS, BATCH = 1_000, 1_024


def rewards_of(items: Tensor) -> Tensor:
    """The known rewards: a bent and a crossed function of the features, standard deviation near 1.5."""
    return 1.2 * torch.tanh(items[:, 0]) + items[:, 1] - 0.5 * items[:, 2] * items[:, 3].sign()


def drawn(
    places: Tensor, rewards: Tensor, pairs: int, draw: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """First and second items of pairs, and whether the first wins."""
    first, second = places[torch.randint(len(places), (2, pairs), generator=draw)]
    wins = torch.rand(pairs, generator=draw) < torch.sigmoid(rewards[first] - rewards[second])
    return first, second, wins


def learnt(items: Tensor, rewards: Tensor, loss: BradleyTerry, draw: torch.Generator) -> nn.Module:
    """A network trained on pairs of all but the held-out items."""
    torch.manual_seed(0)
    scorer = nn.Sequential(nn.Linear(FEATURES, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(scorer.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    known = torch.arange(HELD_OUT, ITEMS)
    for _ in range(STEPS):
        first, second, wins = drawn(known, rewards, BATCH, draw)
        chosen, rejected = torch.where(wins, first, second), torch.where(wins, second, first)
        sides = scorer(items[chosen])[:, 0], scorer(items[rejected])[:, 0]
        optimizer.zero_grad()
        loss(*sides, torch.zeros(BATCH))[0].mean().backward()
        optimizer.step()
        schedule.step()
    return scorer


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's."""
    ranks = torch.stack([values.argsort().argsort().double() for values in (one, other)])
    return float(torch.corrcoef(ranks)[0, 1])


def calibration_error(chances: Tensor, wins: Tensor) -> float:
    """The mean over pairs of the distance of predicted and won shares in their bin."""
    bins = (chances * BINS).long().clamp(max=BINS - 1)
    gaps = torch.zeros(BINS).index_add(0, bins, chances - wins.float())
    return float(gaps.abs().sum() / len(chances))


def check(loss: BradleyTerry) -> bool:
    """Prints one run; whether the known rewards are found."""
    draw = torch.Generator().manual_seed(1)
    items = torch.randn(ITEMS, FEATURES, generator=draw)
    rewards = rewards_of(items)
    scores = learnt(items, rewards, loss, draw)(items)[:, 0].detach()
    first, second, wins = drawn(torch.arange(HELD_OUT), rewards, 50_000, draw)
    correlation = rank_correlation(scores[:HELD_OUT], rewards[:HELD_OUT])
    error = calibration_error(torch.sigmoid(scores[first] - scores[second]), wins)
    right = float(((scores[first] > scores[second]) == wins).float().mean())
    best = float(((rewards[first] > rewards[second]) == wins).float().mean())
    print(
        f"{loss}: {STEPS * BATCH:,} pairs; held-out items: rank correlation {correlation:.4f}, calibration error "
        f"{error:.4f}, mean score {float(scores.mean()):.2f}; pairs right {right:.3f}, by the true rewards {best:.3f}"
    )
    return correlation > 0.98 and error < 0.03


if __name__ == "__main__":
    found = [check(loss) for loss in (BradleyTerry(), BradleyTerry(centring=0.001))]
    sys.exit(int(not all(found)))
