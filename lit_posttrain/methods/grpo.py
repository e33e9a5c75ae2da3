"""Group-relative policy optimisation: reinforcement learning from verifiable rewards without a value network."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from lit_posttrain.batches import Answer, Experience, PromptBatch, Sampling
from lit_posttrain.collate import take
from lit_posttrain.contracts import Advantage, Grader, Patience, PolicyLoss, Reuse, Stats, TokenWeights
from lit_posttrain.errors import InputError
from lit_posttrain.keys import digest
from lit_posttrain.ledger import Phase
from lit_posttrain.methods.base import PostTrainModule
from lit_posttrain.methods.rollout_metrics import rollout_metrics
from lit_posttrain.methods.teaching import Teacher
from lit_posttrain.methods.vocabulary import check_vocabulary
from lit_posttrain.networks import CausalNetwork, NetworkConfig, disable_dropout, place, token_logprobs
from lit_posttrain.objectives.advantages import GroupAdvantage, informative_groups
from lit_posttrain.objectives.kl import k1, k3
from lit_posttrain.objectives.policy import Clipped
from lit_posttrain.objectives.weights import TokenMean
from lit_posttrain.rollouts import check_grader, draw, to_experience
from lit_posttrain.rollouts.collect import AT_ONCE
from lit_posttrain.rollouts.collect import rewards as rewards_of
from lit_posttrain.text import TextConfig


@dataclass(frozen=True)
class Rollouts:
    """How completions are drawn for training.

    Args:
        group_size: G, the completions of each problem; their rewards are compared with each other.
        sampling: Temperature and length; top-p, top-k and a minimum length are refused, since the log-probs of
            training could not follow them.
        max_rows: Completions that are written at the same time.
        grading_deadline_s: Seconds that grading may take after the last answer of a rollout is written.
        rescore: Take the old log-probs from a pass of the training network in the micro-batches of the first
            update, instead of from the sampler; the first ratio is then exactly 1, for one more forward pass.
        patience: What happens when the grader is out of order.
    """

    group_size: int = 8
    sampling: Sampling = field(default_factory=Sampling)
    max_rows: int = 1024
    grading_deadline_s: float = 60.0
    rescore: bool = False
    patience: Patience = field(default_factory=Patience)

    def __post_init__(self) -> None:
        if self.group_size < 2:
            raise InputError(
                f"group size {self.group_size} gives zero advantage for every answer; "
                f"set rollouts.group_size >= 2 (got {self.group_size})"
            )
        s = self.sampling
        if s.temperature <= 0 or s.top_p < 1 or s.top_k > 0 or s.min_new_tokens > 0:
            raise InputError(
                "training needs samples from the plain tempered softmax: temperature > 0, top_p 1, top_k 0, "
                f"min_new_tokens 0 (got temperature {s.temperature}, top_p {s.top_p}, top_k {s.top_k}, "
                f"min_new_tokens {s.min_new_tokens})"
            )


class GRPOModule(PostTrainModule):
    """Improves a policy by comparing several graded answers to the same problem.

    Source: Shao et al. 2024, arXiv:2402.03300; clip bounds and token weighting as DAPO, arXiv:2503.14476.

    Args:
        network: The policy to start from; its untrained self is the reference.
        grader: Judges the answers.
        text: The tokenizer and chat template; by default those of `network.path`.
        rollouts: How answers are drawn.
        advantage: Turns the rewards of groups into advantages.
        loss: The surrogate loss of the policy.
        weighting: How the tokens of a step are weighed.
        reuse: Passes over a rollout, and optimiser steps per pass.
        kl_weight: Weight of the KL to the reference (k3) in the loss, over the completions that are learned from;
            the reference is only loaded above 0.
        optimizer: Any class of torch.optim.
        schedule: A learning-rate schedule by optimiser step, such as WarmupDecay; none keeps the rate constant.
        seed: Of the sampling.
        teacher: A network to learn from on the policy's own completions, beside or instead of the rewards.
    """

    reference: CausalNetwork
    teacher: CausalNetwork

    def __init__(
        self,
        network: NetworkConfig,
        grader: Grader,
        text: TextConfig | None = None,
        rollouts: Rollouts = Rollouts(),
        advantage: Advantage = GroupAdvantage(),
        loss: PolicyLoss = Clipped(),
        weighting: TokenWeights = TokenMean(),
        reuse: Reuse = Reuse(),
        kl_weight: float = 0.0,
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=1e-6, weight_decay=0.0),
        schedule: LRSchedulerCallable | None = None,
        seed: int = 0,
        teacher: Teacher | None = None,
    ) -> None:
        if kl_weight < 0:
            raise InputError(
                f"kl_weight must not be negative (got {kl_weight}); a negative one would reward drifting"
            )
        super().__init__(network, text, weighting, optimizer, schedule, rollouts.max_rows)
        self.grader, self.rollouts, self.advantage, self.loss = grader, rollouts, advantage, loss
        self.sampling = rollouts.sampling
        self.reuse, self.kl_weight, self.seed = reuse, kl_weight, seed
        self.teaching = teacher
        self.needs_scoring = rollouts.rescore or kl_weight > 0 or teacher is not None

    def configure_model(self) -> None:
        """Loads the policy with dropout off, the reference where a KL needs one, and the teacher if there is one.

        Raises:
            InputError: for a teacher with another vocabulary.
        """
        super().configure_model()
        disable_dropout(self.policy)
        if self.kl_weight > 0 and self.network.adaptation is None and "reference" not in self._modules:
            self.reference = self._frozen(self.network)
        if self.teaching is not None and "teacher" not in self._modules:
            check_vocabulary(
                self.teaching.network,
                self.text,
                role="teacher",
                instead="distil from a pool of its answers (`predict`, then the source Pool)",
            )
            self.teacher = self._frozen(self.teaching.network)

    def _frozen(self, settings: NetworkConfig) -> CausalNetwork:
        network = place(settings, self._trainer)
        network.requires_grad_(False)
        disable_dropout(network)
        return network

    def setup(self, stage: str) -> None:
        """Refuses a precision in which every tensor of a batch would be cast."""
        if str(self.trainer.precision).endswith("-true") and self.trainer.precision != "32-true":
            raise InputError(
                f"precision {self.trainer.precision} casts log-probs and advantages; use bf16-mixed or 32-true, "
                "or set network.dtype"
            )

    def collect(self, prompts: PromptBatch, index: int) -> Experience | None:
        """Draws and grades G answers per problem; returns those to learn from.

        Ranks divide the problems and all get the whole, so that rewards are compared over all of them. Without a
        teacher these are the graded answers of groups with different rewards: the others never reach the network,
        whether or not there is a KL. With one they are all graded answers, or simply all if rewards do not count.
        """
        with self._precision():
            answers = draw(
                self.engine,
                self.grader,
                prompts,
                sampling=self.sampling,
                n=self.rollouts.group_size,
                seed=digest(self.seed, "rollout", index),
                ledger=self.ledger,
                deadline_s=self.rollouts.grading_deadline_s,
                ranks=self.ranks,
                patience=self.rollouts.patience if self._rewards_count else AT_ONCE,
            )
        if self._rewards_count:
            check_grader(answers)
        rewards, graded = rewards_of(answers)
        advantages = self.advantage(rewards.unsqueeze(-1), graded)
        self._report(answers, advantages, rewards, graded, index)
        experience = to_experience(
            answers,
            prompts.prompt_ids,
            advantages,
            temperature=self.sampling.temperature,
            policy_version=self.global_step,
            pad_id=self.text.pad_id,
        )
        rows = self._learned_from(rewards, graded).flatten().nonzero().squeeze(-1)
        return take(experience, rows.tolist()) if len(rows) else None

    @property
    def _rewards_count(self) -> bool:
        return self.teaching is None or self.teaching.reward_weight > 0

    def _learned_from(self, rewards: Tensor, graded: Tensor) -> Tensor:
        """Which answers (P, G) teach something."""
        if self.teaching is None:
            return informative_groups(rewards, graded)[:, None] & graded
        return graded if self._rewards_count else torch.ones_like(graded)

    @torch.no_grad()
    def score(self, experience: Experience) -> None:
        """Old log-probs where `rescore` asks for them, those of reference and teacher where there are such."""
        with self.ledger.phase(Phase.SCORING), self._precision():
            batch = experience.to(self.device)
            if self.rollouts.rescore:
                experience.old_logprobs = self._logprobs(self.policy, batch).cpu()
            if self.kl_weight > 0 and self.network.adaptation is not None:
                with self.policy.adapter_off():
                    experience.reference_logprobs = self._logprobs(self.policy, batch).cpu()
            elif self.kl_weight > 0:
                experience.reference_logprobs = self._logprobs(self.reference, batch).cpu()
            if self.teaching is not None:
                experience.teacher_logprobs = self._logprobs(self.teacher, batch).cpu()

    def training_step(self, batch: Experience, batch_idx: int) -> Tensor:
        """The batch's share of the step's loss."""
        with self.ledger.phase(Phase.UPDATE):
            logprobs = self._logprobs(self.policy, batch)
        token_loss, stats = self._surrogate(logprobs, batch)
        new = logprobs.detach()
        stats["policy/entropy_nats"] = -batch.sampled_logprobs
        stats["policy/engine_gap_nats"] = (batch.old_logprobs - batch.sampled_logprobs).abs()
        stats["policy/kl_old_nats"] = k3(new, batch.old_logprobs)
        if batch.reference_logprobs is not None:
            kl = k3(logprobs, batch.reference_logprobs)
            stats["policy/kl_reference_nats"] = kl
            token_loss = token_loss + self.kl_weight * kl
        return self.reduce(token_loss, batch, stats)

    def _surrogate(self, logprobs: Tensor, batch: Experience) -> tuple[Tensor, Stats]:
        """The policy loss, with what a teacher says in it."""
        if self.teaching is None or batch.teacher_logprobs is None:
            return self.loss(logprobs, batch)
        advantages, added = self.teaching.objective(logprobs, batch)
        combined = self.teaching.reward_weight * batch.advantages + advantages
        token_loss, stats = self.loss(logprobs, replace(batch, advantages=combined))
        stats["policy/kl_teacher_nats"] = k1(logprobs.detach(), batch.teacher_logprobs)
        return token_loss + added, stats

    def _logprobs(self, network: CausalNetwork, batch: Experience) -> Tensor:
        return token_logprobs(network, batch, temperature=batch.temperature, ledger=self.ledger)

    def _precision(self) -> AbstractContextManager[Any]:
        """The precision of training, for work that the loader asks for."""
        return self.trainer.precision_plugin.forward_context()

    def _report(
        self, answers: list[list[Answer]], advantages: Tensor, rewards: Tensor, graded: Tensor, index: int
    ) -> None:
        """Logs the rollout and shows it to the callbacks."""
        told = [
            [replace(answer, advantage=float(a)) for answer, a in zip(group, row, strict=True)]
            for group, row in zip(answers, advantages, strict=True)
        ]
        self.record(
            rollout_metrics(told, rewards, graded, self.grader.lowest)
            | {"rollout/problems": (index + 1) * len(told)}
        )
        self.fire("on_experience", told)
