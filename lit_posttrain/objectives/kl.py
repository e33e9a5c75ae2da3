"""Per-token estimates of KL(policy || other) from one sampled token, in nats.

Each takes log-probs of tokens that the *policy* drew. With d = log policy - log other:
k1 = d (unbiased, any sign), k2 = d²/2 (biased, low variance; its gradient is that of the true KL),
k3 = exp(-d) - 1 + d (unbiased, never negative; its gradient as a loss is that of the reverse direction).

Source: Schulman 2020, "Approximating KL divergence", http://joschu.net/blog/kl-approx.html.
"""

import torch
from jaxtyping import Float
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Differences of log-probs are held within this before they are exponentiated; exp(20) is 4.9e8."""


def k1(policy: Float[Tensor, "*shape"], other: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The log-ratio itself. As a loss its expected gradient says nothing about `other`: use it in the reward."""
    return policy - other


def k2(policy: Float[Tensor, "*shape"], other: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Half the squared log-ratio; as a loss on policy samples its expected gradient is the true KL's."""
    return (policy - other).square() / 2


def k3(policy: Float[Tensor, "*shape"], other: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """exp(-d) - 1 + d with d the log-ratio; the form in GRPO (Shao et al. 2024, arXiv:2402.03300, eq. 4).

    Beyond `MAX_LOG_RATIO` the exponential is held, so that one lost token cannot overflow a batch.
    """
    difference = policy - other
    return torch.exp((-difference).clamp(max=MAX_LOG_RATIO)) - 1 + difference
