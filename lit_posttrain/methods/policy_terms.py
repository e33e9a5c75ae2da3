"""The terms beside a policy loss in one run: what they add, and what of them changes from rollout to rollout."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lit_posttrain.batches import Experience
from lit_posttrain.contracts import PolicyLoss, Stats
from lit_posttrain.errors import InputError
from lit_posttrain.methods.rollouts import Rollouts
from lit_posttrain.methods.terms import Terms
from lit_posttrain.objectives.kl import k1, k3
from lit_posttrain.objectives.masked import masked_mean, per_token, segment_sum

log = logging.getLogger(__name__)

ALARMING_GAP_NATS = 0.05
"""Mean |log-prob of the trainer - of the engine| per token from which a run is warned."""


class LiveTerms:
    """`Terms` with their present weights.

    Args:
        terms: The settings.
        rollouts: How completions are drawn, for checks.

    Raises:
        InputError: for a correction of log-probs that are the engine's own.
    """

    def __init__(self, terms: Terms, rollouts: Rollouts) -> None:
        if terms.correction is not None and not rollouts.rescore:
            raise InputError(
                f"{type(terms.correction).__name__} compares the trainer's log-probs with the engine's, and without "
                "rollouts.rescore the old log-probs are the engine's; set rollouts.rescore: true"
            )
        self.settings = terms
        self.kl_weight = 0.0 if terms.kl is None else terms.kl.schedule.first()
        self.entropy_weight = 0.0 if terms.entropy is None else terms.entropy.coefficient
        self._warned = False

    @property
    def in_reward(self) -> bool:
        """Whether a KL is taken off the rewards."""
        return self.settings.kl is not None and self.settings.kl.in_reward

    def objective(
        self, loss: PolicyLoss, logprobs: Tensor, batch: Experience, *, entropy: Tensor | None, steps: int
    ) -> tuple[Tensor, Stats]:
        """Token losses (B, T) of `loss` with all terms, and statistics (B, T).

        Args:
            loss: The surrogate.
            logprobs: (B, T), with the graph.
            batch: With advantages, and reference log-probs where there is a KL.
            entropy: (B, T) of the next-token distribution, with the graph, where there is a bonus.
            steps: Optimiser steps so far.
        """
        losses, stats = loss(logprobs, batch)
        if self.settings.correction is not None:
            factors, told = self.settings.correction(batch)
            losses, stats = losses * factors, stats | told
        stats |= _distances(logprobs.detach(), batch, steps)
        if entropy is not None:
            assert self.settings.entropy is not None
            losses = losses + self.settings.entropy.term(entropy, self.entropy_weight)
            stats["policy/entropy_nats"] = entropy.detach()
        kl = self.settings.kl
        if kl is not None:
            assert batch.reference_logprobs is not None
            stats["policy/kl_reference_nats"] = k3(logprobs.detach(), batch.reference_logprobs)
            if not kl.in_reward:
                losses = losses + self.kl_weight * kl.estimator(logprobs, batch.reference_logprobs, batch)
        return losses, stats

    def penalties(self, experience: Experience) -> Tensor:
        """What is taken off the reward of each token (B, T), without a gradient; 0 without a KL in the reward."""
        kl = self.settings.kl
        if kl is None or not kl.in_reward:
            return torch.zeros_like(experience.old_logprobs)
        assert experience.reference_logprobs is not None
        return self.kl_weight * kl.estimator(
            experience.old_logprobs, experience.reference_logprobs, experience
        )

    def follow(self, experience: Experience, steps: int) -> dict[str, float]:
        """Measures a whole rollout, moves the weights for the next one, and tells of it.

        Args:
            experience: The rollout, scored.
            steps: Optimiser steps before the next rollout.
        """
        told: dict[str, float] = {}
        self._warn_of_gap(experience)
        if self.settings.kl is not None:
            found = completion_kl(experience)
            told |= {"policy/kl_weight": self.kl_weight, "policy/kl_completion_nats": float(found.mean())}
            self.kl_weight = self.settings.kl.schedule.next(
                self.kl_weight, kl_nats=float(found.mean()), completions=len(found), step=steps
            )
        if self.settings.entropy is not None:
            told["policy/entropy_weight"] = self.entropy_weight
            entropy = float(masked_mean(-experience.sampled_logprobs, experience.mask))
            self.entropy_weight = self.settings.entropy.next(self.entropy_weight, entropy)
        return told

    def _warn_of_gap(self, experience: Experience) -> None:
        """Says once that engine and trainer do not agree: ratios are wrong then, the longer the answers the more."""
        gap = (experience.old_logprobs - experience.sampled_logprobs).abs()
        mean = float(masked_mean(gap, experience.mask))
        if mean > ALARMING_GAP_NATS and not self._warned:
            self._warned = True
            log.warning(
                "engine and trainer disagree by %.3f nats per token on average; keep network.dtype float32 or set "
                "network.fp32_head, or correct for it (terms.correction)",
                mean,
            )

    def state(self) -> dict[str, float]:
        """The present weights."""
        return {"kl_weight": self.kl_weight, "entropy_weight": self.entropy_weight}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.kl_weight, self.entropy_weight = float(state["kl_weight"]), float(state["entropy_weight"])


def completion_kl(experience: Experience) -> Tensor:
    """The log-ratio of each completion to the reference (S,), nats: an unbiased estimate of the KL."""
    assert experience.reference_logprobs is not None
    ratio = k1(experience.old_logprobs, experience.reference_logprobs) * experience.mask
    return segment_sum(ratio, experience.segments, experience.sequences)


def _distances(new: Tensor, batch: Experience, steps: int) -> Stats:
    """How far the policy is from where the batch was drawn, per token."""
    gap = (batch.old_logprobs - batch.sampled_logprobs).abs()
    behind = per_token((steps - batch.policy_version).float(), batch.segments)
    return {
        "policy/entropy_nats": -batch.sampled_logprobs,
        "policy/engine_gap_nats": gap,
        "policy/engine_gap_nats_max": gap,
        "policy/kl_old_nats": k3(new, batch.old_logprobs),
        "policy/staleness_versions": behind,
        "policy/staleness_versions_max": behind,
    }
