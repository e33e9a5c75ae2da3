"""Group-relative policy optimisation: reinforcement learning from verifiable rewards without a value network."""

from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from lit_posttrain.batches import Answer, Experience, PromptBatch, TokenBatch
from lit_posttrain.collate import take
from lit_posttrain.contracts import (
    Advantage,
    Collected,
    Grader,
    PolicyLoss,
    Reuse,
    Stats,
    TokenAdvantage,
    TokenWeights,
)
from lit_posttrain.errors import InputError
from lit_posttrain.ledger import Phase
from lit_posttrain.methods.base import PostTrainModule
from lit_posttrain.methods.policy_pass import read_policy, score_policy
from lit_posttrain.methods.policy_terms import LiveTerms
from lit_posttrain.methods.reference import KEY, Reference
from lit_posttrain.methods.rollout_metrics import rollout_metrics
from lit_posttrain.methods.rollouts import Rollouts, check_groups, check_overlong, draw_answers
from lit_posttrain.methods.teaching import Teacher
from lit_posttrain.methods.terms import Terms
from lit_posttrain.methods.vocabulary import check_vocabulary
from lit_posttrain.networks import CausalNetwork, NetworkConfig, disable_dropout, place, token_logprobs
from lit_posttrain.objectives.advantages import GroupAdvantage
from lit_posttrain.objectives.groups import by_group
from lit_posttrain.objectives.kl import k1
from lit_posttrain.objectives.masked import per_token, segment_sum
from lit_posttrain.objectives.policy import Clipped
from lit_posttrain.objectives.weights import TokenMean
from lit_posttrain.rollouts import to_experience
from lit_posttrain.rollouts.collect import attempts, reward_parts
from lit_posttrain.rollouts.collect import rewards as rewards_of
from lit_posttrain.rollouts.overlong import counted
from lit_posttrain.text import TextConfig


class GRPOModule(PostTrainModule):
    """Improves a policy by comparing several graded answers to the same problem.

    The whole family: advantage, loss, weighting and terms are parts, and the recipes of configs/grpo/ differ in them
    alone.

    Source: Shao et al. 2024, arXiv:2402.03300; the parts name theirs.

    Args:
        network: The policy to start from.
        grader: Judges the answers.
        text: The tokenizer and chat template; by default those of `network.path`.
        rollouts: How answers are drawn.
        advantage: Turns the rewards of groups into advantages.
        loss: The surrogate loss of the policy.
        weighting: How the tokens of a step are weighed.
        reuse: Passes over a rollout, and optimiser steps per pass.
        terms: What stands beside the loss: a KL to a reference, an entropy bonus, a correction of the engine.
        optimizer: Any class of torch.optim.
        schedule: A learning-rate schedule by optimiser step, such as WarmupDecay; none keeps the rate constant.
        seed: Of the sampling.
        teacher: A network to learn from on the policy's own completions, beside or instead of the rewards.

    Raises:
        InputError: for parts that cannot work together.
    """

    reference: Reference
    teacher: CausalNetwork

    def __init__(
        self,
        network: NetworkConfig,
        grader: Grader,
        text: TextConfig | None = None,
        rollouts: Rollouts = Rollouts(),
        advantage: Advantage | TokenAdvantage = GroupAdvantage(),
        loss: PolicyLoss = Clipped(),
        weighting: TokenWeights = TokenMean(),
        reuse: Reuse = Reuse(),
        terms: Terms = Terms(),
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=1e-6, weight_decay=0.0),
        schedule: LRSchedulerCallable | None = None,
        seed: int = 0,
        teacher: Teacher | None = None,
    ) -> None:
        check_groups(rollouts, advantage)
        super().__init__(network, text, weighting, optimizer, schedule, rollouts.max_rows)
        check_overlong(rollouts, self.text)
        self.grader, self.rollouts, self.advantage, self.loss = grader, rollouts, advantage, loss
        self.sampling = rollouts.sampling
        self.reuse, self.seed, self.teaching = reuse, seed, teacher
        self.terms = LiveTerms(terms, rollouts)
        self.needs_scoring = rollouts.rescore or terms.kl is not None or teacher is not None
        if self.terms.in_reward and (isinstance(advantage, TokenAdvantage) or advantage.parts):
            raise InputError(
                f"KLInReward takes the KL off the reward of a completion, and {type(advantage).__name__} makes "
                "advantages of its parts; use KLInLoss"
            )

    def configure_model(self) -> None:
        """Loads the policy with dropout off, the reference where there is a KL, and the teacher if there is one.

        Raises:
            InputError: for a teacher or reference with another vocabulary.
        """
        super().configure_model()
        disable_dropout(self.policy)
        if self.terms.settings.kl is not None and KEY not in self._modules:
            self.reference = Reference(self.terms.settings.kl.reference, self)
        if self.teaching is not None and "teacher" not in self._modules:
            check_vocabulary(
                self.teaching.network,
                self.text,
                role="teacher",
                instead="distil from a pool of its answers (`predict`, then the source Pool)",
            )
            self.teacher = place(self.teaching.network, self._trainer)
            self.teacher.requires_grad_(False)
            disable_dropout(self.teacher)

    def setup(self, stage: str) -> None:
        """Refuses a precision in which every tensor of a batch would be cast."""
        refuse_true_precision(self.trainer.precision)

    def on_fit_start(self) -> None:
        """Makes sure that a resumed run has the same reference, and names it."""
        if KEY in self._modules:
            self.reference.begin(self)

    def collect(self, prompts: PromptBatch, index: int) -> Collected:
        """Draws and grades G answers per problem; returns those to learn from, and how each problem went.

        Without a teacher and a KL in the reward these are the graded answers of groups with different rewards: the
        others never reach the network, unless `rollouts.uniform_groups` keeps them. With a KL in the reward they are
        all graded answers, since it differs everywhere; with a teacher too, or simply all if rewards do not count.
        """
        answers = draw_answers(self, prompts, index, rewards_count=self._rewards_count)
        parts, graded = reward_parts(answers, self.advantage.parts)
        if isinstance(self.advantage, TokenAdvantage):
            advantages = torch.zeros(graded.shape)
        else:
            advantages = self.advantage(parts, graded)
        self._report(answers, advantages, graded, index)
        experience = to_experience(
            answers,
            prompts.prompt_ids,
            advantages,
            temperature=self.sampling.temperature,
            policy_version=self.global_step,
            pad_id=self.text.pad_id,
            counted=counted(answers, self.rollouts.overlong),
            decode=self.text.decode,
        )
        rows = self._learned_from(answers, parts, graded).flatten().nonzero().squeeze(-1)
        return Collected(take(experience, rows.tolist()) if len(rows) else None, attempts(answers))

    @property
    def selective(self) -> bool:
        """Whether groups with equal rewards are left out."""
        kept = self.terms.in_reward or self.rollouts.uniform_groups == "keep"
        return self.teaching is None and not kept

    @property
    def _rewards_count(self) -> bool:
        return self.teaching is None or self.teaching.reward_weight > 0

    def _learned_from(self, answers: list[list[Answer]], parts: Tensor, graded: Tensor) -> Tensor:
        """Which answers (P, G) teach something."""
        if not self._rewards_count:
            return torch.ones_like(graded)
        if not self.selective:
            return graded
        if isinstance(self.advantage, TokenAdvantage):
            return self.advantage.informative([[a.grade for a in g] for g in answers])[:, None] & graded
        return self.advantage.informative(parts, graded)[:, None] & graded

    @torch.no_grad()
    def score(self, experience: Experience) -> None:
        """Old log-probs where `rescore` asks for them, those of reference and teacher where there are such."""
        score_policy(self, experience)
        if self.teaching is not None:
            with self.ledger.phase(Phase.SCORING), self.trainer.precision_plugin.forward_context():
                batch = experience.to(self.device)
                experience.teacher_logprobs = token_logprobs(
                    self.teacher, batch, temperature=batch.temperature, ledger=self.ledger
                ).cpu()

    @torch.no_grad()
    def settle(self, experience: Experience) -> None:
        """Advantages that need a scored rollout: of tokens, or of rewards that a KL is taken off."""
        if isinstance(self.advantage, TokenAdvantage):
            experience.advantages = self.advantage(experience)
        elif self.terms.in_reward:
            cost = segment_sum(self.terms.penalties(experience), experience.segments, experience.sequences)
            rewards, graded, places = by_group(experience.rewards - cost, experience.graded, experience.group)
            advantages = self.advantage(rewards[..., None], graded)[places]
            experience.advantages = per_token(advantages, experience.segments) * experience.mask
        told = self.terms.follow(experience, self.global_step + self.reuse.steps)
        if told:
            self.record(told)

    def on_train_batch_start(self, batch: TokenBatch, batch_idx: int) -> None:
        """Lets the reference follow after each optimiser step."""
        if KEY in self._modules:
            self.reference.follow_steps(self)
        super().on_train_batch_start(batch, batch_idx)

    def training_step(self, batch: Experience, batch_idx: int) -> Tensor:
        """The batch's share of the step's loss."""
        with self.ledger.phase(Phase.UPDATE):
            logprobs, entropy = read_policy(self, batch)
        taught, added, told = self._taught(logprobs, batch)
        losses, stats = self.terms.objective(
            self.loss, logprobs, taught, entropy=entropy, steps=self.global_step
        )
        return self.reduce(losses + added, batch, stats | told)

    def _taught(self, logprobs: Tensor, batch: Experience) -> tuple[Experience, Tensor, Stats]:
        """The batch with what a teacher says in its advantages, what it adds to the loss, and statistics."""
        if self.teaching is None or batch.teacher_logprobs is None:
            return batch, torch.zeros_like(logprobs), {}
        advantages, added = self.teaching.objective(logprobs, batch)
        combined = self.teaching.reward_weight * batch.advantages + advantages
        stats = {"policy/kl_teacher_nats": k1(logprobs.detach(), batch.teacher_logprobs)}
        return replace(batch, advantages=combined), added, stats

    def _report(self, answers: list[list[Answer]], advantages: Tensor, graded: Tensor, index: int) -> None:
        """Logs the rollout and shows it to the callbacks."""
        told = [
            [replace(answer, advantage=float(a)) for answer, a in zip(group, row, strict=True)]
            for group, row in zip(answers, advantages, strict=True)
        ]
        rewards, _ = rewards_of(answers)
        self.record(
            rollout_metrics(told, rewards, graded, self.grader.lowest)
            | {"rollout/problems": (index + 1) * len(told)}
        )
        self.fire("on_experience", told)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the weights of the terms, and the reference."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["terms"] = self.terms.state()
        if KEY in self._modules:
            self.reference.save(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on with the terms and the reference of the checkpoint.

        Raises:
            InputError: if its weights are not those of the reference that this config has.
        """
        super().on_load_checkpoint(checkpoint)
        if "terms" in checkpoint:
            self.terms.restore(checkpoint["terms"])
        if KEY in self._modules:
            self.reference.load(checkpoint)


def refuse_true_precision(precision: Any) -> None:
    """
    Raises:
        InputError: for a precision in which log-probs and advantages would be cast.
    """
    if str(precision).endswith("-true") and precision != "32-true":
        raise InputError(
            f"precision {precision} casts log-probs and advantages; use bf16-mixed or 32-true, or set network.dtype"
        )
