"""Losses of language modelling, per token."""

from jaxtyping import Float
from torch import Tensor


def negative_log_likelihood(logprobs: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """-log p of each token, in nats; entries outside the mask are 0 as the log-probs are."""
    return -logprobs


def smoothed_cross_entropy(
    logprobs: Float[Tensor, "B T"], mean_logprobs: Float[Tensor, "B T"], smoothing: float
) -> Float[Tensor, "B T"]:
    """Cross-entropy against (1 - s) of the token itself and s of the uniform distribution, in nats.

    -(1 - s) log p(token) - s mean over the vocabulary of log p. Even a perfect network does not reach 0, so the
    likelihood itself is to be reported beside it.

    Args:
        logprobs: log p of each token; 0 outside the mask.
        mean_logprobs: The mean of log p over the whole vocabulary at the same place; 0 outside the mask.
        smoothing: s, in [0, 1).

    Source: Szegedy et al. 2016, arXiv:1512.00567, section 7.
    """
    return -(1 - smoothing) * logprobs - smoothing * mean_logprobs
