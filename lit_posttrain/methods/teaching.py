"""A teacher for on-policy distillation: which network, and how its log-probs count."""

from dataclasses import dataclass, field

from lit_posttrain.contracts import Distillation
from lit_posttrain.errors import InputError
from lit_posttrain.networks import NetworkConfig
from lit_posttrain.objectives.distillation import ReverseKLAdvantage


@dataclass(frozen=True)
class Teacher:
    """A second network that judges every token that the policy wrote, by its own log-probability of it.

    It reads the policy's tokens as they are, so it must have the same vocabulary. It is not trained and not stored
    in checkpoints.

    Args:
        network: The teacher.
        objective: How its log-probs are learned from.
        reward_weight: Weight of the advantages from rewards; 0 distils alone, and then answers that could not be
            graded count like all others.
    """

    network: NetworkConfig
    objective: Distillation = field(default_factory=ReverseKLAdvantage)
    reward_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.reward_weight < 0:
            raise InputError(
                f"reward_weight must not be negative (got {self.reward_weight}); it would reward wrong answers"
            )
