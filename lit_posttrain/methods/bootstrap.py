"""Resampled data for the members of an ensemble that share a network, so that their spread tells of the data."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_posttrain.batches import PreferenceBatch
from lit_posttrain.keys import digest, uniforms
from lit_posttrain.objectives.masked import segment_sum

_FACTOR = 6364136223846793005  # of a full-period generator modulo 2^64 (Knuth, MMIX)
_MOST = 12
"""Counts above this have a probability below 1e-10."""


@dataclass(frozen=True)
class Bootstrap:
    """Each member counts each pair as often as a draw with replacement would: Poisson with mean 1.

    The counts depend on the seed, the member and the tokens of the pair alone: the same in every epoch, in any
    batch and on any number of processes.

    Args:
        seed: Of the draws.

    Source: Oza and Russell 2001, "Online bagging and boosting".
    """

    seed: int = 0

    def counts(self, keys: Tensor, members: int) -> Tensor:
        """How often each member counts each pair, (P, K) float32, from keys (P,) of pairs."""
        bounds = torch.tensor(_cumulative(), dtype=torch.float64, device=keys.device)
        rows = keys + digest("bootstrap", self.seed)
        drawn = torch.stack([uniforms(rows, k) for k in range(members)], dim=1)
        return (drawn[..., None] >= bounds).sum(-1).float()


def pair_keys(batch: PreferenceBatch) -> Tensor:
    """A 64-bit number (P,) of each pair, in the order of `batch.sides()`, that follows from its tokens alone."""
    longest = int(batch.position_ids.max()) + 1
    powers = torch.full((longest,), _FACTOR, dtype=torch.int64, device=batch.input_ids.device).cumprod(0)
    tokens = (batch.input_ids + 1) * powers[batch.position_ids]  # wraps around, as a hash may
    keys = segment_sum(tokens, batch.segments, len(batch.pair))
    chosen, rejected = batch.sides()
    return keys[chosen] * _FACTOR + keys[rejected]


def _cumulative() -> list[float]:
    """Chances of a count of at most 0, 1, 2 …"""
    chances = [math.exp(-1) / math.factorial(count) for count in range(_MOST)]
    return [math.fsum(chances[: count + 1]) for count in range(_MOST)]
