"""How a network ranks the two sides of held-out pairs, read and cut as in its training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_posttrain.batches import TokenBatch
from lit_posttrain.data.formats import PreferenceRow
from lit_posttrain.data.unit_limit import UnitLimit
from lit_posttrain.data.unit_tokenising import Pairs
from lit_posttrain.data.units import Unit, side_by_side
from lit_posttrain.methods import RewardModule
from lit_posttrain.networks import CausalNetwork, last_tokens, token_logprobs
from lit_posttrain.text import ChatText
from preferences.training import CUT

BATCH_PAIRS = 32

Score = Callable[[TokenBatch], Tensor]
"""A number (S,) for each sequence of a batch with one sequence per row; higher is better."""


@dataclass(frozen=True)
class HeldOut:
    """Pairs as a network reads them, `units`; None where both sides are the same once they are cut: a tie."""

    units: list[Unit | None]
    pad_id: int

    @classmethod
    def of(cls, rows: Sequence[PreferenceRow], text: ChatText, max_tokens: int) -> "HeldOut":
        """The pairs of these rows, each sequence of at most so many tokens."""
        limit = UnitLimit(max_tokens, CUT, bos=text.tokenizer.bos_token_id)
        return cls([limit.fitted_unit(Pairs()(row, text)[0]) for row in rows], text.pad_id)

    @torch.no_grad()
    def margins(self, score: Score) -> Tensor:
        """By how much each pair's better side is scored higher, (P,) float64; 0 for a tie."""
        places = [i for i, unit in enumerate(self.units) if unit is not None]
        places.sort(key=lambda i: max(map(len, self.units[i] or ())))
        found = torch.zeros(len(self.units), dtype=torch.float64)
        for first in range(0, len(places), BATCH_PAIRS):
            part = places[first : first + BATCH_PAIRS]
            members = [member for i in part for member in self.units[i] or ()]
            chosen, rejected = score(side_by_side(members, self.pad_id)).double().view(-1, 2).unbind(1)
            found[part] = chosen - rejected
        return found


def by_reward(module: RewardModule) -> Score:
    """The score that a reward model reads after the last token."""
    network = module.policy.eval()
    return lambda batch: network.scores(batch, last_tokens(batch)).mean(dim=1)


def by_likelihood(network: CausalNetwork) -> Score:
    """The log-probability of the reply, in nats."""
    network.eval()
    return lambda batch: token_logprobs(network, batch).sum(dim=1)
