"""From log-probs of tokens to the losses of pairs and of single completions, with what is logged of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_posttrain.batches import PreferenceBatch, UnpairedBatch
from lit_posttrain.contracts import PairLogprobs, PreferenceLoss, Stats, UnpairedLoss
from lit_posttrain.errors import InputError
from lit_posttrain.objectives import divergences, log_ratio_losses, reference_free, unpaired
from lit_posttrain.objectives.completions import (
    Averaged,
    CompletionLogprobs,
    Summed,
    completion_tokens,
    token_factors,
)
from lit_posttrain.objectives.kl import k3
from lit_posttrain.objectives.masked import segment_sum
from lit_posttrain.objectives.pair_terms import PolicyWeighted, WithLikelihood
from lit_posttrain.objectives.pairs import PairLoss

LOSSES = (divergences, log_ratio_losses, reference_free, unpaired)
"""Imported so that configs can name what they define by class alone."""


@dataclass(frozen=True)
class PreferenceObjective:
    """A loss, and how the log-probs that it takes are made; see `of`."""

    loss: PreferenceLoss | UnpairedLoss
    logprobs: CompletionLogprobs

    @classmethod
    def of(
        cls, loss: PreferenceLoss | UnpairedLoss, logprobs: CompletionLogprobs | None
    ) -> "PreferenceObjective":
        """With log-probs as the loss is meant for, where none are given.

        Raises:
            InputError: for others than those.
        """
        meant = loss.reduction if isinstance(loss, PairLoss | WithLikelihood | PolicyWeighted) else None
        if logprobs is None:
            return cls(loss, Averaged() if meant == "averaged" else Summed())
        kind = type(logprobs).__name__
        if meant not in (None, logprobs.reduction):
            raise InputError(
                f"{type(loss).__name__} takes {meant} log-probs, and logprobs is {kind}; leave it away, or set "
                f"{'Averaged' if meant == 'averaged' else 'Summed'} (and reduction: {logprobs.reduction} where the "
                "loss has that setting)"
            )
        if logprobs.pairs_only and isinstance(loss, UnpairedLoss):
            raise InputError(
                f"{kind} compares the lengths of two sides, and {type(loss).__name__} has one only"
            )
        return cls(loss, logprobs)

    @property
    def compares(self) -> bool:
        """Whether the loss needs the log-probs of a reference."""
        return isinstance(self.loss, UnpairedLoss) or self.loss.needs_reference

    def of_pairs(
        self, logprobs: Tensor, reference: Tensor | None, batch: PreferenceBatch
    ) -> tuple[Tensor, Tensor, Stats]:
        """Losses, shares and statistics (P,) from log-probs (B, T) of the policy and of the reference.

        Raises:
            InputError: for a loss of single completions.
        """
        if not isinstance(self.loss, PreferenceLoss):
            raise InputError(
                f"{type(self.loss).__name__} is a loss of single completions, and the data holds pairs; use "
                "UnpairedData, which takes pairs apart"
            )
        chosen, rejected = batch.sides()
        tokens = completion_tokens(batch.mask, batch.segments, len(batch.pair))
        shared = torch.empty_like(tokens)
        shared[chosen] = shared[rejected] = torch.minimum(tokens[chosen], tokens[rejected])
        factors = token_factors(self.logprobs, batch.mask, batch.segments, tokens, shared)
        policy = _sides(logprobs * factors, batch, chosen, rejected)
        other = (None, None) if reference is None else _sides(reference * factors, batch, chosen, rejected)
        pairs = PairLogprobs(*policy, tokens[chosen], tokens[rejected], *other)
        losses, stats = self.loss(pairs)
        if reference is not None:
            stats = stats | _drift(logprobs.detach(), reference, batch, tokens, chosen, rejected)
        return losses, batch.share[chosen], stats

    def of_completions(
        self, logprobs: Tensor, reference: Tensor | None, batch: UnpairedBatch, kl: Tensor
    ) -> tuple[Tensor, Tensor, Stats]:
        """Losses, shares and statistics (S,); `kl` () in nats is what the estimate of the whole step says.

        Raises:
            InputError: for a loss of pairs.
        """
        if not isinstance(self.loss, UnpairedLoss):
            raise InputError(
                f"{type(self.loss).__name__} is a loss of pairs, and the data holds single completions; use "
                "PreferenceData, or a loss such as KTO"
            )
        assert reference is not None
        count = len(batch.desirable)
        policy, other = (self._completions(values, batch) for values in (logprobs, reference))
        losses, stats = self.loss(policy, other, batch.desirable, kl.to(policy.device))
        tokens = completion_tokens(batch.mask, batch.segments, count)
        distance = segment_sum(k3(logprobs.detach(), reference) * batch.mask, batch.segments, count)
        stats = stats | {
            "policy/kl_reference_nats": distance / tokens.clamp(min=1),
            "preference/kl_mismatched_nats": kl.to(policy.device).expand(count),
        }
        return losses, torch.where(batch.mismatched, 0.0, batch.share), stats

    def mismatch(self, ratio: Tensor, batch: UnpairedBatch) -> tuple[Tensor, Tensor]:
        """Sum and number, both (), of the log-ratios of mismatched completions, given those of tokens (B, T)."""
        values = self._completions(ratio, batch)
        return (values * batch.mismatched).sum(), batch.mismatched.sum().float()

    def _completions(self, values: Tensor, batch: UnpairedBatch) -> Tensor:
        """Of tokens (B, T) those of completions (S,)."""
        count = len(batch.desirable)
        tokens = completion_tokens(batch.mask, batch.segments, count)
        factors = token_factors(self.logprobs, batch.mask, batch.segments, tokens, tokens)
        return segment_sum(values * factors, batch.segments, count)


def _sides(values: Tensor, batch: PreferenceBatch, chosen: Tensor, rejected: Tensor) -> tuple[Tensor, Tensor]:
    """Sums (P,) of both sides."""
    sums = segment_sum(values, batch.segments, len(batch.pair))
    return sums[chosen], sums[rejected]


def _drift(
    logprobs: Tensor,
    reference: Tensor,
    batch: PreferenceBatch,
    tokens: Tensor,
    chosen: Tensor,
    rejected: Tensor,
) -> Stats:
    """How far the policy has gone from the reference on each pair (P,), per token."""
    counts = tokens[chosen].clamp(min=1), tokens[rejected].clamp(min=1)
    ratio = _sides((logprobs - reference) * batch.mask, batch, chosen, rejected)
    distance = _sides(k3(logprobs, reference) * batch.mask, batch, chosen, rejected)
    return {
        "preference/drift_chosen_nats": ratio[0] / counts[0],
        "preference/drift_rejected_nats": ratio[1] / counts[1],
        "policy/kl_reference_nats": (distance[0] + distance[1]) / (counts[0] + counts[1]),
    }
