"""Estimates of KL(policy || other) from tokens that the *policy* drew, in nats.

With d = log policy - log other: k1 = d (unbiased, any sign), k2 = d²/2 (biased, low variance),
k3 = exp(-d) - 1 + d (unbiased, never negative).

An estimate has two uses, and each bends another thing. *In the reward* only its value counts, as a cost that the
policy gradient sees: k1 is exact there, the policy ends at pi_ref exp(r / beta); k2 and k3 penalise other quantities,
E[d²]/2 and an estimate whose own expectation is right but whose policy gradient is not. *In the loss* only its
gradient counts, and the right value says nothing about it: the classes say what each pulls towards.

Source: Schulman 2020, "Approximating KL divergence", http://joschu.net/blog/kl-approx.html; the gradients: Tang and
Munos 2025, arXiv:2506.09477.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lit_posttrain.batches import Experience
from lit_posttrain.contracts import KLEstimator
from lit_posttrain.objectives.ratios import MAX_LOG_RATIO, Scope, held_exp, masked_tokens, sequence_sum


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


def with_slope(
    value: Float[Tensor, "B T"], slope: Float[Tensor, "B T"], logprobs: Float[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """`value`, with the gradient slope * grad logprobs."""
    return value.detach() + slope.detach() * (logprobs - logprobs.detach())


def log_ratio_over(
    policy: Float[Tensor, "B T"], other: Float[Tensor, "B T"], experience: Experience, over: Scope
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """The log-ratio of each token, or of its whole sequence, without a graph; and how many tokens share it."""
    difference = (policy - other).detach()
    if over == "token":
        return difference, torch.ones_like(difference)
    return sequence_sum(difference, experience), masked_tokens(experience, difference)


@dataclass(frozen=True)
class K1(KLEstimator):
    """d, the log-ratio of a token.

    In the reward: exact. In the loss: its expected gradient is 0 whatever the reference, since the mean of
    grad log pi is: noise, and no pull.
    """

    def __call__(
        self, logprobs: Float[Tensor, "B T"], reference: Float[Tensor, "B T"], experience: Experience
    ) -> Float[Tensor, "B T"]:
        """(B, T), nats; a sequence's values sum to its log-ratio."""
        return torch.where(experience.mask, k1(logprobs, reference), 0.0)


@dataclass(frozen=True)
class K2(KLEstimator):
    """d²/2, of each token, or of the whole sequence.

    In the loss, on the policy's own samples: over the sequence (D²/2 with D the sum of d; each of its n tokens has the
    value D²/2n and the gradient D grad log pi) the expected gradient is exactly that of KL(pi || pi_ref). Over tokens
    (d grad log pi) it is that of the KL of each next token, and leaves out that a token also leads to prefixes where
    later KLs are larger or smaller. On older samples both are biased. In the reward: it penalises E[d²]/2 instead.

    Args:
        over: "sequence" for the exact gradient, "token" for less variance.
    """

    over: Scope = "token"

    def __call__(
        self, logprobs: Float[Tensor, "B T"], reference: Float[Tensor, "B T"], experience: Experience
    ) -> Float[Tensor, "B T"]:
        """(B, T), nats; over the sequence its values sum to D²/2."""
        d, tokens = log_ratio_over(logprobs, reference, experience, self.over)
        return torch.where(experience.mask, with_slope(d.square() / 2 / tokens, d, logprobs), 0.0)


@dataclass(frozen=True)
class K3(KLEstimator):
    """exp(-d) - 1 + d, of each token, or of the whole sequence; never negative. Over tokens it is GRPO's.

    In the loss: the gradient (1 - exp(-d)) grad log pi is in expectation that of the *other* direction,
    KL(pi_ref || pi), seen from the policy's samples. Over the sequence, with weight beta, the optimum is
    beta pi_ref / (lambda - r), lambda such that it sums to 1, and not pi_ref exp(r / beta): it follows rewards less
    sharply and gives up no sequence of the reference. With `importance` the estimate is multiplied by the ratio
    pi / pi_old *with* its gradient: value and gradient are then those of KL(pi || pi_ref) on older samples too, over
    the sequence exactly; over tokens for each next token behind prefixes as they were drawn, as K2 over tokens. In the
    reward: its expected gradient is not that of the KL.

    Beyond `MAX_LOG_RATIO` exponentials are held, as values and as factors of the gradient.

    Args:
        over: "token" as in GRPO, or "sequence".
        importance: Multiply by the ratio of the policy to the one that drew, with its gradient.
    """

    over: Scope = "token"
    importance: bool = False

    def __call__(
        self, logprobs: Float[Tensor, "B T"], reference: Float[Tensor, "B T"], experience: Experience
    ) -> Float[Tensor, "B T"]:
        """(B, T), nats; over the sequence its values sum to exp(-D) - 1 + D, times the ratio of the sequence."""
        d, tokens = log_ratio_over(logprobs, reference, experience, self.over)
        value, slope = k3(d, torch.zeros_like(d)), 1 - held_exp(-d)
        if self.importance:
            moved, _ = log_ratio_over(logprobs, experience.old_logprobs, experience, self.over)
            ratio = held_exp(moved)
            # the derivative of ratio * k3 is ratio * (k3 + 1 - exp(-d)), and that is ratio * d
            value, slope = ratio * value, ratio * d
        return torch.where(experience.mask, with_slope(value / tokens, slope, logprobs), 0.0)
