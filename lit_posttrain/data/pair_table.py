"""Pairs of completions as a policy drew them, as a table of units that goes through checkpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lit_posttrain.candidates import Candidate
from lit_posttrain.data.pairing import CandidatePair
from lit_posttrain.data.token_table import JoinedTable, TokenTable
from lit_posttrain.data.units import Member, UnitTable, as_unit_chunk

ARRAYS = ("ids", "mask", "starts", "counts", "values")


@dataclass(frozen=True)
class PairTable:
    """Prompts and completions by their ids as they were drawn; the completions are under the mask.

    `logprobs` are those of all tokens as drawn, end to end, in nats, 0 in prompts; None where nobody asks for them.
    """

    table: TokenTable
    logprobs: np.ndarray | None = None

    @classmethod
    def of(cls, pairs: Sequence[CandidatePair], *, logprobs: bool) -> "PairTable":
        """A unit for each pair, with its margin and the weight 1."""
        units = [[_member(pair.chosen, pair.margin), _member(pair.rejected, 1.0)] for pair in pairs]
        chunk = as_unit_chunk(units, [max(map(len, unit)) for unit in units])
        starts = np.concatenate([[0], np.cumsum(chunk.lengths, dtype=np.int64)])
        drawn = [_drawn(side) for pair in pairs for side in (pair.chosen, pair.rejected)] if logprobs else []
        return cls(
            TokenTable(chunk.ids, chunk.mask, starts, chunk.counts, values=chunk.values),
            np.concatenate(drawn) if drawn else None,
        )

    def units(self) -> UnitTable:
        """The pairs by number."""
        return UnitTable(JoinedTable([self.table]))

    def to_state(self) -> dict[str, Any]:
        """Plain tensors, for a checkpoint."""
        state = {name: torch.from_numpy(getattr(self.table, name)) for name in ARRAYS}
        return state | ({} if self.logprobs is None else {"logprobs": torch.from_numpy(self.logprobs)})

    @classmethod
    def from_state(cls, state: Mapping[str, torch.Tensor]) -> "PairTable":
        """The inverse of `to_state`."""
        arrays = {name: value.cpu().numpy() for name, value in state.items()}
        ids, mask, starts, counts, values = (arrays[name] for name in ARRAYS)
        return cls(TokenTable(ids, mask, starts, counts, values=values), arrays.get("logprobs"))


def _member(side: Candidate, value: float) -> Member:
    prompt, answer = list(side.prompt_ids), side.answer.completion.tokens.tolist()
    return Member.of(prompt + answer, [False] * len(prompt) + [True] * len(answer), value)


def _drawn(side: Candidate) -> np.ndarray:
    zeros = np.zeros(len(side.prompt_ids), np.float32)
    return np.concatenate([zeros, side.answer.completion.logprobs.float().numpy()])
