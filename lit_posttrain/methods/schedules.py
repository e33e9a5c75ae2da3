"""Learning-rate schedules, advanced once per optimiser step."""

import math
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lit_posttrain.errors import InputError


class WarmupDecay(LambdaLR):
    """Linear warm-up, then constant, linear or cosine decay to a share of the peak; constant after the end.

    Args:
        optimizer: Its learning rate is the peak.
        total_steps: Optimiser steps until the decay is complete; only `constant` may leave it 0.
        warmup_steps: Steps over which the rate rises linearly; the first step already has 1/warmup_steps of it.
        shape: How the rate falls after the warm-up.
        final_fraction: The rate at the end as a share of the peak.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int = 0,
        warmup_steps: int = 0,
        shape: Literal["constant", "linear", "cosine"] = "cosine",
        final_fraction: float = 0.0,
    ) -> None:
        if shape != "constant" and total_steps <= warmup_steps:
            raise InputError(
                f"a {shape} schedule needs total_steps above warmup_steps (got {total_steps} and {warmup_steps})"
            )
        self.total_steps, self.warmup_steps = total_steps, warmup_steps
        self.shape, self.final_fraction = shape, final_fraction
        super().__init__(optimizer, self._factor)

    def _factor(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.shape == "constant":
            return 1.0
        done = min(1.0, (step - self.warmup_steps) / (self.total_steps - self.warmup_steps))
        left = 1 - done if self.shape == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.final_fraction + (1 - self.final_fraction) * left
