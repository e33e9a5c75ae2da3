"""Rows of another data set in every optimiser step, against forgetting."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lit_posttrain.data.order import EpochOrder, Portion, StepSize
from lit_posttrain.errors import InputError


@dataclass(frozen=True)
class StepShares:
    """A step divided: how much of it is the data's own, and how much replayed."""

    own: StepSize
    replayed: StepSize

    @classmethod
    def of(cls, size: StepSize, share: float) -> "StepShares":
        """With `share` of the step's sequences, or tokens, replayed.

        Raises:
            InputError: if one of the two would get nothing.
        """
        whole = size.sequences or size.tokens
        part = round(whole * share)
        if not 0 < part < whole:
            kind = "batch_sequences" if size.sequences else "batch_tokens"
            raise InputError(
                f"a share of {share} of {kind} {whole} is {part}; a step needs some of both, so raise {kind} or "
                "change share"
            )
        if size.sequences:
            return cls(StepSize(sequences=whole - part), StepSize(sequences=part))
        return cls(StepSize(tokens=whole - part), StepSize(tokens=part))


class ReplayOrder:
    """The replayed rows of each optimiser step of a run, from endless passes over them in new random orders.

    Args:
        lengths: Tokens of each row of the table.
        first: The first row of the table that is replayed; all from there on are.
        size: How much of a step is replayed.
        seed: Of the order.

    Raises:
        InputError: if there is less than one step needs.
    """

    def __init__(self, lengths: np.ndarray, first: int, size: StepSize, *, seed: int) -> None:
        rows = len(lengths) - first
        there = rows if size.sequences else int(lengths[first:].sum())
        if there < (size.sequences or size.tokens):
            unit = "sequences" if size.sequences else "tokens"
            raise InputError(
                f"the data to replay has {there} {unit}, but each step takes {size.sequences or size.tokens}; lower "
                "the share or the size of a step"
            )
        draws = size.sequences or rows
        self.order = EpochOrder(
            lengths, size, portions=[Portion(first, rows, draws)], seed=seed, name="replay"
        )
        self._epoch = lru_cache(maxsize=1)(self.order.epoch)

    def rows(self, step: int) -> np.ndarray:
        """The replayed rows of step number `step` of the run, from 0."""
        epoch, number = divmod(step, self.order.steps)
        return self._epoch(epoch)[number]
