"""From the scores of an ensemble to losses: the mean of its members', and statistics of its mean score."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_posttrain.batches import PreferenceBatch, RankedBatch, StepBatch
from lit_posttrain.contracts import RankingLoss, RewardLoss, Stats
from lit_posttrain.methods.bootstrap import Bootstrap, pair_keys
from lit_posttrain.objectives.masked import segment_sum
from lit_posttrain.objectives.pairs import reward_stats
from lit_posttrain.objectives.steps import step_loss


@dataclass(frozen=True)
class Judged:
    """Losses, their weights in the step and statistics by name, all of one shape: (P,), (S,) or (B, T)."""

    losses: Tensor
    weights: Tensor
    stats: Stats


def judged_pairs(
    scores: Tensor, batch: PreferenceBatch, loss: RewardLoss, bootstrap: Bootstrap | None
) -> Judged:
    """Of pairs (P,), from the scores (S, K) of their sides."""
    chosen, rejected = batch.sides()
    margin = batch.margin[chosen]
    losses, stats = _over_members(
        lambda member: loss(scores[chosen, member], scores[rejected, member], margin), scores.shape[1]
    )
    if bootstrap is not None:
        losses = losses * bootstrap.counts(pair_keys(batch), scores.shape[1])
    own = reward_stats(*(scores.mean(1)[side] for side in (chosen, rejected)))
    spread, tokens = spreads(scores), completion_tokens(batch)
    stats |= own | {
        "preference/score_mean": (own["preference/reward_chosen"] + own["preference/reward_rejected"]) / 2,
        "preference/score_spread": (spread[chosen] + spread[rejected]) / 2,
        "preference/confidence": torch.sigmoid(own["preference/margin"].abs()),
        "preference/longer_wins": longer_wins(own["preference/margin"], tokens[chosen] - tokens[rejected]),
    }
    return Judged(losses.mean(1), batch.share[chosen], stats)


def judged_rankings(scores: Tensor, batch: RankedBatch, loss: RankingLoss) -> Judged:
    """Of graded completions (S,), from their scores (S, K)."""
    losses, stats = _over_members(
        lambda member: loss(scores[:, member], batch.target, batch.group), scores.shape[1]
    )
    stats |= {"preference/score_mean": scores.detach().mean(1), "preference/score_spread": spreads(scores)}
    return Judged(losses.mean(1), batch.share, stats)


def judged_steps(scores: Tensor, batch: StepBatch) -> Judged:
    """Of tokens (B, T), from the scores (N, K) of all steps, log odds of being right; unknown labels weigh nothing."""
    known = batch.mask[batch.step_ends]
    scores, labels, at = scores[known], batch.step_labels[batch.mask], batch.mask
    losses = step_loss(scores, labels[:, None].expand_as(scores))
    mean = scores.detach().mean(1)
    stats = {
        "preference/score_mean": mean,
        "preference/score_spread": spreads(scores),
        "preference/step_accuracy": (mean.sign() * (labels - 0.5).sign() + 1) / 2,
    }
    return Judged(
        _placed(losses.mean(1), at),
        batch.weights,
        {name: _placed(value, at) for name, value in stats.items()},
    )


def spreads(scores: Tensor) -> Tensor:
    """The standard deviation (N,) of the members' scores (N, K) around their mean; 0 for one member."""
    return scores.detach().std(dim=1, correction=0)


def completion_tokens(batch: PreferenceBatch | RankedBatch) -> Tensor:
    """The tokens (S,) of each completion."""
    return segment_sum(batch.mask.long(), batch.segments, len(batch.share))


def longer_wins(margin: Tensor, gaps: Tensor) -> Tensor:
    """1 where the longer side has the higher score, 0 where the shorter has, 1/2 where there is a tie, (P,)."""
    return (margin.sign() * gaps.sign() + 1) / 2


def _over_members(loss: Callable[[int], tuple[Tensor, Stats]], members: int) -> tuple[Tensor, Stats]:
    """The losses (N, K) of the members, and the mean of what each says of itself."""
    results = [loss(member) for member in range(members)]
    stats = {
        name: torch.stack([stats[name].detach() for _, stats in results]).mean(0) for name in results[0][1]
    }
    return torch.stack([losses for losses, _ in results], dim=1), stats


def _placed(values: Tensor, at: Tensor) -> Tensor:
    """Values (N,) at their places (B, T), 0 elsewhere."""
    return values.new_zeros(at.shape).masked_scatter(at, values)
