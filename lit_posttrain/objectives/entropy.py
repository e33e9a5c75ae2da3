"""A bonus for the entropy of the next token, which keeps a policy trying other tokens."""

from dataclasses import dataclass
from math import exp

from jaxtyping import Float
from torch import Tensor

from lit_posttrain.errors import InputError

LEAST = 1e-6
"""The smallest weight that a target leads to; from 0 a factor would not bring it back."""


@dataclass(frozen=True)
class EntropyBonus:
    """Takes weight * entropy off the loss of each token, the entropy over the whole vocabulary and with its gradient.

    With a target the weight is multiplied by exp(rate) after a rollout whose entropy is below it, and by exp(-rate)
    after one above, and held from 1e-6 to `most`.

    Args:
        coefficient: The weight of the entropy, that of the first rollout where there is a target.
        target_nats: The entropy per token that the weight is steered towards; null keeps the weight.
        rate: How fast the weight follows, in nats per rollout.
        most: The largest weight that a target may lead to.
    """

    coefficient: float = 0.01
    target_nats: float | None = None
    rate: float = 0.05
    most: float = 1.0

    def __post_init__(self) -> None:
        if not self.coefficient >= 0:
            raise InputError(
                f"the entropy's coefficient is {self.coefficient}; below 0 it would be a penalty: give 0 or more"
            )
        if self.target_nats is None:
            return
        if not self.target_nats > 0 or not self.rate > 0 or not LEAST <= self.coefficient <= self.most:
            raise InputError(
                f"a target of the entropy needs target_nats and rate above 0, and {LEAST} <= coefficient <= most (got "
                f"target_nats {self.target_nats}, rate {self.rate}, coefficient {self.coefficient}, most {self.most})"
            )

    def term(self, entropy: Float[Tensor, "B T"], coefficient: float) -> Float[Tensor, "B T"]:
        """-coefficient * entropy (B, T), to be added to the loss; nats in, with the gradient."""
        return -coefficient * entropy

    def next(self, coefficient: float, observed_nats: float) -> float:
        """The weight after a rollout with that entropy per token; unchanged without a target, or exactly on it."""
        if self.target_nats is None or observed_nats == self.target_nats:
            return coefficient
        factor = exp(self.rate if observed_nats < self.target_nats else -self.rate)
        return min(self.most, max(LEAST, coefficient * factor))
