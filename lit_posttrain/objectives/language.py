"""Losses of language modelling, per token."""

from jaxtyping import Float
from torch import Tensor


def negative_log_likelihood(logprobs: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """-log p of each token, in nats; entries outside the mask are 0 as the log-probs are."""
    return -logprobs
