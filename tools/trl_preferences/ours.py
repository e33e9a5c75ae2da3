"""Our losses on the shared tensors; a step is all pairs, each with the same share."""

from collections.abc import Callable

import torch
from torch import Tensor

from lit_posttrain.contracts import PairLogprobs, PreferenceLoss, RewardLoss, UnpairedLoss
from lit_posttrain.objectives.completions import CompletionLogprobs, token_factors
from lit_posttrain.objectives.pair_terms import pair_weight
from lit_posttrain.objectives.preference import Sigmoid

Tensors = dict[str, Tensor]


def log_probs_of(given: Tensors, averaged: bool) -> PairLogprobs:
    """Both sides of all pairs, summed over tokens or averaged."""
    tokens = given["mask"].sum(dim=1)
    divisor = tokens if averaged else 1
    policy = (given["logprobs"].sum(dim=1) / divisor).chunk(2)
    reference = (given["reference"].sum(dim=1) / divisor).chunk(2)
    return PairLogprobs(*policy, *tokens.chunk(2), *reference)


def pairs(given: Tensors, loss: PreferenceLoss, averaged: bool = False) -> Tensor:
    """A loss of pairs."""
    return loss(log_probs_of(given, averaged))[0].mean()


def aligned(given: Tensors) -> Tensor:
    """DPO's with the aligned weights of WPO."""
    tokens = given["mask"].sum(dim=1)
    weights = ((given["logprobs"] - given["collision"]) * given["mask"]).sum(dim=1) / tokens
    losses, _ = Sigmoid(0.1)(log_probs_of(given, averaged=False))
    return (losses * pair_weight(*weights.chunk(2))).mean()


def desensitised(given: Tensors, loss: PreferenceLoss, how: CompletionLogprobs) -> Tensor:
    """A loss of pairs whose longer sides count less beyond the shorter."""
    tokens = given["mask"].sum(dim=1)
    shared = torch.minimum(*tokens.chunk(2)).repeat(2)
    segments = torch.arange(1, len(tokens) + 1)[:, None] * given["mask"]
    factors = token_factors(how, given["mask"], segments, tokens, shared)
    weighted = given | {name: given[name] * factors for name in ("logprobs", "reference")}
    return pairs(weighted, loss)


def unpaired(given: Tensors, loss: UnpairedLoss) -> Tensor:
    """A loss of single completions, with the KL of the mismatched ones."""
    kl = (given["mismatched"] - given["mismatched_reference"]).mean()
    sums = given["logprobs"].sum(dim=1), given["reference"].sum(dim=1)
    return loss(*sums, given["desirable"], kl)[0].mean()


def reward(given: Tensors, loss: RewardLoss) -> Tensor:
    """A loss of scores; without margins in the data they are 0."""
    chosen, rejected = given["scores"].chunk(2)
    return loss(chosen, rejected, given["margin"])[0].mean()


def steps(given: Tensors, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The loss of steps; the log odds of two classes are the difference of their logits."""
    scores = given["step_logits"][..., 1] - given["step_logits"][..., 0]
    ends = given["step_ends"]
    return loss(scores[ends], given["step_labels"][ends].to(torch.float32)).mean()
