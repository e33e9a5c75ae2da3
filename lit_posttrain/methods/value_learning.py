"""What the values of PPO are computed from, and how they are learned."""

from dataclasses import dataclass, field

from lit_posttrain.errors import InputError
from lit_posttrain.networks import OwnTrunk, ValueTrunk


@dataclass(frozen=True)
class ValueLearning:
    """What values are computed from, and how they are learned.

    Args:
        trunk: A network of its own (OwnTrunk), the policy's states (SharedTrunk), or adapters on the policy's frozen
            weights (AdapterTrunk).
        coefficient: Weight of the value loss.
        clip: Values move no further than this from those at collection before their loss stops falling; null for no
            bound.
        warmup_steps: Optimiser steps at the start in which only values learn, and the policy stays as it is.
        learning_rate: That of the value model's weights; by default the policy's.
    """

    trunk: ValueTrunk = field(default_factory=OwnTrunk)
    coefficient: float = 0.5
    clip: float | None = 0.2
    warmup_steps: int = 0
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        if self.coefficient <= 0 or (self.clip is not None and self.clip <= 0) or self.warmup_steps < 0:
            raise InputError(
                "value learning needs coefficient > 0, clip > 0 or null, and warmup_steps >= 0 (got "
                f"{self.coefficient}, {self.clip} and {self.warmup_steps})"
            )
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise InputError(f"value.learning_rate is {self.learning_rate}; it must be above 0, or null")
