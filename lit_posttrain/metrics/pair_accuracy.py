"""How often the better of two is scored higher, and whether it is for its length; add up over batches and ranks."""

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class PairAccuracy(Metric):
    """Share of pairs in which the better side has the higher score; a tie counts as half; nan where unknown."""

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("right", "squares", "pairs"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.right: Tensor
        self.squares: Tensor
        self.pairs: Tensor

    def update(self, margins: Tensor) -> None:
        """Adds pairs by how much higher the better side is scored, (P,)."""
        value = (margins.detach().double().sign() + 1) / 2
        self.right += value.sum()
        self.squares += value.square().sum()
        self.pairs += len(value)

    def compute(self) -> dict[str, Tensor]:
        """`mean` and its `standard_error` for new pairs."""
        n = self.pairs
        unknown = torch.full_like(n, math.nan)
        mean = self.right / n if n > 0 else unknown
        variance = ((self.squares - n * mean**2) / (n - 1)).clamp(min=0) if n > 1 else unknown
        return {"mean": mean, "standard_error": (variance / n).sqrt()}


class LengthCorrelation(Metric):
    """Correlation of the differences of score and of length within pairs; 0 where either never differs.

    A pair counts in both directions, so that which side comes first does not matter: sum(s l) over
    sqrt(sum(s²) sum(l²)). Unlike the correlation over single completions it says nothing of prompts that call for
    long answers.
    """

    full_state_update = False
    is_differentiable = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("products", "score_squares", "length_squares"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.products: Tensor
        self.score_squares: Tensor
        self.length_squares: Tensor

    def update(self, margins: Tensor, gaps: Tensor) -> None:
        """Adds pairs by the differences of score (P,) and of length (P,), both of the same side less the other."""
        scores, lengths = margins.detach().double(), gaps.double()
        self.products += (scores * lengths).sum()
        self.score_squares += scores.square().sum()
        self.length_squares += lengths.square().sum()

    def compute(self) -> Tensor:
        """The correlation, in [-1, 1]."""
        both = (self.score_squares * self.length_squares).sqrt()
        return self.products / both if both > 0 else torch.zeros_like(both)
