"""Learning from a teacher's log-probabilities of the policy's own tokens.

At each prefix that the policy wrote, the reverse KL(policy || teacher) over the next token is made small; how the
prefixes came about is not differentiated. With one drawn token x of it, d = log policy(x) - log teacher(x), both
forms have the gradient d * grad log policy(x), whose expectation over x is that of the exact KL.

Source: Agarwal et al. 2023 (GKD), arXiv:2306.13649, section 3; Lu and Thinking Machines Lab 2025, "On-policy
distillation", https://thinkingmachines.ai/blog/on-policy-distillation/.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lit_posttrain.batches import Experience
from lit_posttrain.contracts import Distillation
from lit_posttrain.errors import InputError
from lit_posttrain.objectives.kl import k1


def reverse_kl_advantage(
    old: Float[Tensor, "*shape"], teacher: Float[Tensor, "*shape"], *, limit: float
) -> Float[Tensor, "*shape"]:
    """-(log policy - log teacher) of each drawn token, of the policy that drew it, held within ±`limit` nats.

    As an advantage without discount: a token answers for itself alone. Only a token that the teacher finds all
    but impossible reaches the limit; held there, its pull stays finite where the teacher's probability is 0.
    """
    return -k1(old, teacher).clamp(-limit, limit)


@dataclass(frozen=True)
class ReverseKLAdvantage(Distillation):
    """The log-ratio as an advantage, so that the policy loss clips and weighs it like any other.

    Args:
        weight: Factor on the advantages.
        limit_nats: The log-ratio is held within this.
    """

    weight: float = 1.0
    limit_nats: float = 20.0

    def __post_init__(self) -> None:
        check(self.weight, self.limit_nats)

    def __call__(self, logprobs: Float[Tensor, "B T"], experience: Experience) -> tuple[Tensor, Tensor]:
        """Advantages from the old log-probs, under the mask; nothing in the loss."""
        teacher = teacher_of(experience)
        advantages = reverse_kl_advantage(experience.old_logprobs, teacher, limit=self.limit_nats)
        return self.weight * advantages * experience.mask, torch.zeros_like(advantages)


@dataclass(frozen=True)
class ReverseKLLoss(Distillation):
    """Half the squared log-ratio (k2) as a term of the loss, without importance weights and clipping.

    In the first step after a rollout its gradient is that of `ReverseKLAdvantage`; later it goes on to follow the
    policy as it is then, on tokens that an older one drew.

    Args:
        weight: Factor on the loss.
        limit_nats: The log-ratio is held within this, in the loss and as the factor of its gradient.
    """

    weight: float = 1.0
    limit_nats: float = 20.0

    def __post_init__(self) -> None:
        check(self.weight, self.limit_nats)

    def __call__(self, logprobs: Float[Tensor, "B T"], experience: Experience) -> tuple[Tensor, Tensor]:
        """Nothing in the advantages; the loss under the mask."""
        teacher = teacher_of(experience)
        gap = k1(logprobs.detach(), teacher).clamp(-self.limit_nats, self.limit_nats)
        loss = gap.square() / 2 + gap * (logprobs - logprobs.detach())  # k2's value and gradient, both held
        return torch.zeros_like(gap), self.weight * loss * experience.mask


def teacher_of(experience: Experience) -> Tensor:
    """The teacher's log-probs (B, T).

    Raises:
        ValueError: if they have not been scored.
    """
    if experience.teacher_logprobs is None:
        raise ValueError("the experience has no teacher_logprobs; score it before it is learned from")
    return experience.teacher_logprobs


def check(weight: float, limit_nats: float) -> None:
    """
    Raises:
        InputError: for settings that drive the policy away from its teacher, or nowhere.
    """
    if weight <= 0 or limit_nats <= 0:
        raise InputError(
            f"distillation needs a weight and a limit above 0 (got weight {weight}, limit_nats {limit_nats}); "
            "leave the teacher out to learn from rewards alone"
        )
