"""Proximal policy optimisation with a value network, any grader as its reward, and no cluster framework."""

from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from lit_posttrain.batches import Answer, Experience, PromptBatch, TokenBatch
from lit_posttrain.collate import take
from lit_posttrain.contracts import Collected, Grader, PolicyLoss, Returns, Reuse, TokenWeights
from lit_posttrain.errors import InputError
from lit_posttrain.ledger import Phase
from lit_posttrain.methods.base import PostTrainModule
from lit_posttrain.methods.grpo import refuse_true_precision
from lit_posttrain.methods.policy_pass import score_reference
from lit_posttrain.methods.policy_terms import LiveTerms
from lit_posttrain.methods.reference import KEY, Reference
from lit_posttrain.methods.rollout_metrics import rollout_metrics
from lit_posttrain.methods.rollouts import Rollouts, check_overlong, draw_answers
from lit_posttrain.methods.shaping import Shaping
from lit_posttrain.methods.terms import KLInReward, Terms
from lit_posttrain.methods.value_learning import ValueLearning
from lit_posttrain.networks import NetworkConfig, ValueModel, disable_dropout
from lit_posttrain.networks.logprobs import of_token, of_token_and_entropy
from lit_posttrain.objectives.masked import masked_mean
from lit_posttrain.objectives.policy import Clipped
from lit_posttrain.objectives.returns import GAE
from lit_posttrain.objectives.value import explained_variance, value_loss
from lit_posttrain.objectives.weights import TokenMean
from lit_posttrain.objectives.whitening import whitened
from lit_posttrain.rollouts import to_experience
from lit_posttrain.rollouts.collect import attempts
from lit_posttrain.rollouts.collect import rewards as rewards_of
from lit_posttrain.rollouts.overlong import counted
from lit_posttrain.text import TextConfig

VALUE = "value."
"""Prefix of the value model's weights in checkpoints."""


class PPOModule(PostTrainModule):
    """Improves a policy by the advantages that a value network and graded completions give to each token.

    It is GRPO with a value network, the KL in the reward of tokens, generalised advantages in place of those of
    groups, and a value loss. The reward of a completion, from any grader, stands at its last token; rewards of steps,
    where a grader gives them, at theirs.

    Source: Schulman et al. 2017, arXiv:1707.06347; on language Ziegler et al. 2019, arXiv:1909.08593, and Ouyang et
    al. 2022, arXiv:2203.02155.

    Args:
        network: The policy to start from.
        grader: Judges the answers.
        text: The tokenizer and chat template; by default those of `network.path`.
        rollouts: How answers are drawn.
        loss: The surrogate loss of the policy.
        weighting: How the tokens of a step are weighed.
        returns: Turns rewards and values of tokens into advantages and returns.
        value: What values are computed from, and how they are learned.
        shaping: What is done to rewards and advantages first.
        reuse: Passes over a rollout, and optimiser steps per pass.
        terms: What stands beside the loss: by default a KL in the reward.
        optimizer: Any class of torch.optim.
        schedule: A learning-rate schedule by optimiser step, such as WarmupDecay; none keeps the rate constant.
        seed: Of the sampling.

    Raises:
        InputError: for parts that cannot work together.
    """

    reference: Reference
    value: ValueModel
    needs_scoring = True
    selective = False

    def __init__(
        self,
        network: NetworkConfig,
        grader: Grader,
        text: TextConfig | None = None,
        rollouts: Rollouts = Rollouts(group_size=1),
        loss: PolicyLoss = Clipped(),
        weighting: TokenWeights = TokenMean(),
        returns: Returns = GAE(),
        value: ValueLearning = ValueLearning(),
        shaping: Shaping = Shaping(),
        reuse: Reuse = Reuse(epochs=2, minibatches=2),
        terms: Terms = Terms(kl=KLInReward(0.05)),
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=1e-6, weight_decay=0.0),
        schedule: LRSchedulerCallable | None = None,
        seed: int = 0,
    ) -> None:
        if not returns.needs_values:
            raise InputError(
                f"{type(returns).__name__} uses no values, so that PPO would train a value network for nothing; use "
                "GAE, or GRPOModule with ProcessAdvantage"
            )
        super().__init__(network, text, weighting, optimizer, schedule, rollouts.max_rows)
        check_overlong(rollouts, self.text)
        self.grader, self.rollouts, self.loss, self.returns = grader, rollouts, loss, returns
        self.learning, self.shaping, self.reuse, self.seed = value, shaping, reuse, seed
        self.sampling = rollouts.sampling
        self.terms = LiveTerms(terms, rollouts)

    def configure_model(self) -> None:
        """Loads policy and value model with dropout off, and the reference where there is a KL."""
        super().configure_model()
        disable_dropout(self.policy)
        if "value" not in self._modules:
            self.value = self.learning.trunk.build(self.policy, self._trainer)
        if self.terms.settings.kl is not None and KEY not in self._modules:
            self.reference = Reference(self.terms.settings.kl.reference, self)

    def setup(self, stage: str) -> None:
        """Refuses a precision in which every tensor of a batch would be cast."""
        refuse_true_precision(self.trainer.precision)

    def on_fit_start(self) -> None:
        """Makes sure that a resumed run has the same reference, and names it."""
        if KEY in self._modules:
            self.reference.begin(self)

    def trained_networks(self) -> dict[str, nn.Module]:
        """Policy and value model."""
        return {"policy": self.policy, "value": self.value}

    def parameter_groups(self) -> Any:
        """Two groups, of which the second may have a rate of its own."""
        policy, value = ([p for p in n.parameters() if p.requires_grad] for n in (self.policy, self.value))
        rate = {} if self.learning.learning_rate is None else {"lr": self.learning.learning_rate}
        return [{"params": policy}, {"params": value, **rate}]

    def collect(self, prompts: PromptBatch, index: int) -> Collected:
        """Draws and grades completions; all that could be graded are learned from."""
        answers = draw_answers(self, prompts, index)
        rewards, graded = rewards_of(answers)
        self._report(answers, rewards, graded, index)
        experience = to_experience(
            answers,
            prompts.prompt_ids,
            torch.zeros_like(rewards),
            temperature=self.sampling.temperature,
            policy_version=self.global_step,
            pad_id=self.text.pad_id,
            counted=counted(answers, self.rollouts.overlong),
            decode=self.text.decode,
        )
        rows = graded.flatten().nonzero().squeeze(-1)
        return Collected(take(experience, rows.tolist()) if len(rows) else None, attempts(answers))

    @torch.no_grad()
    def score(self, experience: Experience) -> None:
        """Values, old log-probs where `rescore` asks for them, and those of the reference where there is a KL."""
        with self.ledger.phase(Phase.SCORING), self.trainer.precision_plugin.forward_context():
            batch = experience.to(self.device)
            values = (
                None if self.rollouts.rescore else self.value.values(self.policy, batch, ledger=self.ledger)
            )
            if values is None:
                logprobs, values = self._read(batch, of_token)
                if self.rollouts.rescore:
                    experience.old_logprobs = logprobs.cpu()
            experience.values = values.cpu()
            score_reference(self, experience, batch)

    @torch.no_grad()
    def settle(self, experience: Experience) -> None:
        """Advantages and returns of a whole rollout."""
        assert experience.values is not None
        rewards = self.shaping.token_rewards(experience, self.terms.penalties(experience))
        advantages, returns = self.returns(rewards, experience.values, experience.mask)
        experience.returns = returns
        if self.shaping.whiten_advantages:
            advantages = whitened(advantages, experience.mask, keep_mean=False)
        experience.advantages = advantages
        mask = experience.mask
        told = {
            "value/explained_variance": explained_variance(experience.values, returns, mask),
            "value/mean": masked_mean(experience.values, mask),
            "value/return_mean": masked_mean(returns, mask),
            "reward/token_sum_mean": rewards.sum() / max(1, experience.sequences),
        }
        moved = self.terms.follow(experience, self.global_step + self.reuse.steps)
        self.record({name: float(v) for name, v in told.items()} | moved)

    def on_train_batch_start(self, batch: TokenBatch, batch_idx: int) -> None:
        """Lets the reference follow after each optimiser step."""
        if KEY in self._modules:
            self.reference.follow_steps(self)
        self.value.weights_apart(self._warming_up)
        super().on_train_batch_start(batch, batch_idx)

    def training_step(self, batch: Experience, batch_idx: int) -> Tensor:
        """The batch's share of the step's loss: of the policy, and of the values."""
        assert batch.values is not None
        assert batch.returns is not None
        with self.ledger.phase(Phase.UPDATE):
            if self.terms.settings.entropy is None:
                (logprobs, values), entropy = self._read(batch, of_token), None
            else:
                both, values = self._read(batch, of_token_and_entropy)
                logprobs, entropy = both[..., 0], both[..., 1]
        losses, stats = self.terms.objective(
            self.loss, logprobs, batch, entropy=entropy, steps=self.global_step
        )
        errors, held = value_loss(values, batch.values, batch.returns, clip=self.learning.clip)
        stats |= {
            "policy/loss": losses.detach(),
            "value/loss": errors.detach(),
            "value/clipped_fraction": held.float(),
        }
        if self._warming_up:
            losses = losses * 0
        return self.reduce(losses + self.learning.coefficient * errors, batch, stats)

    @property
    def _warming_up(self) -> bool:
        return self.global_step < self.learning.warmup_steps

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Logs the step; while values warm up, the policy is left out of it: AdamW moves on zero gradients."""
        super().on_before_optimizer_step(optimizer)
        if self._warming_up:
            for parameter in self.policy.parameters():
                parameter.grad = None

    def _read(self, batch: Experience, read: Any) -> tuple[Tensor, Tensor]:
        return self.value.read(
            self.policy, batch, temperature=batch.temperature, read=read, ledger=self.ledger
        )

    def _report(self, answers: list[list[Answer]], rewards: Tensor, graded: Tensor, index: int) -> None:
        """Logs the rollout and shows it to the callbacks; advantages are not known yet."""
        told = rollout_metrics(answers, rewards, graded, self.grader.lowest)
        self.record(told | {"rollout/problems": (index + 1) * len(answers)})
        self.fire("on_experience", answers)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the value model's trained weights, the weights of the terms, and the reference."""
        value = {n for n, p in self.value.named_parameters() if p.requires_grad}
        kept = {k: v for k, v in checkpoint["state_dict"].items() if k.removeprefix(VALUE) in value}
        super().on_save_checkpoint(checkpoint)
        checkpoint["state_dict"] |= {k: v for k, v in kept.items() if k.startswith(VALUE)}
        checkpoint["terms"] = self.terms.state()
        if KEY in self._modules:
            self.reference.save(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on with values, terms and reference of the checkpoint.

        Raises:
            InputError: if it holds another value model, or another reference than this config has.
        """
        self.configure_model()
        want = {n: p.shape for n, p in self.value.named_parameters() if p.requires_grad}
        have = {
            k.removeprefix(VALUE): v.shape for k, v in checkpoint["state_dict"].items() if k.startswith(VALUE)
        }
        if have != want:
            differ = sorted(n for n in want.keys() | have.keys() if want.get(n) != have.get(n))
            raise InputError(
                f"the checkpoint holds another value model: {len(differ)} weights differ, such as {differ[:3]}; use "
                "the value settings that it was trained with"
            )
        super().on_load_checkpoint(checkpoint)
        if "terms" in checkpoint:
            self.terms.restore(checkpoint["terms"])
        if KEY in self._modules:
            self.reference.load(checkpoint)
