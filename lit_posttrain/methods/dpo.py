"""Direct preference optimisation: a policy learns from pairs of completions, or single ones, and no reward model."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from lit_posttrain import collate, names
from lit_posttrain.batches import PreferenceBatch, PromptBatch, TokenBatch, UnpairedBatch
from lit_posttrain.candidates import Candidate
from lit_posttrain.contracts import Drawing, PreferenceLoss, Stats, UnpairedLoss
from lit_posttrain.errors import InputError
from lit_posttrain.ledger import Phase
from lit_posttrain.methods.base import PostTrainModule
from lit_posttrain.methods.drawing import draw_candidates
from lit_posttrain.methods.preference_losses import PreferenceObjective
from lit_posttrain.methods.reference import KEY, Reference
from lit_posttrain.methods.references import AsDrawn, Fixed, ReferencePolicy
from lit_posttrain.networks import NetworkConfig, disable_dropout, token_logprobs
from lit_posttrain.objectives.completions import CompletionLogprobs
from lit_posttrain.objectives.masked import masked_mean
from lit_posttrain.objectives.preference import Sigmoid
from lit_posttrain.objectives.weights import TokenMean
from lit_posttrain.text import TextConfig

Losses = tuple[Tensor, Tensor, Stats]


class DPOModule(PostTrainModule):
    """Trains a policy on preferences, by any loss of pairs (PreferenceData) or of single completions (UnpairedData).

    With PreferenceRounds it learns from completions of its own, graded and paired.

    Source: Rafailov et al. 2023, arXiv:2305.18290; the other losses name theirs.

    Args:
        network: The policy to start from.
        text: The tokenizer and chat template; by default those of `network.path`.
        loss: On pairs: Sigmoid (DPO), IPO, Hinge, SimPO … ; or on single completions: KTO.
        logprobs: How the log-probs of tokens become those of a completion; by default what the loss is meant for:
            averaged for SimPO and ORPO, summed for all others.
        reference: What the policy is compared with; not loaded for a loss that needs none.
        optimizer: Any class of torch.optim.
        schedule: A learning-rate schedule by optimiser step, such as WarmupDecay; none keeps the rate constant.
        max_rows: Completions that probes and rounds write at the same time.

    Raises:
        InputError: for log-probs that the loss is not meant for.
    """

    reference: Reference

    def __init__(
        self,
        network: NetworkConfig,
        text: TextConfig | None = None,
        loss: PreferenceLoss | UnpairedLoss = Sigmoid(),  # noqa: B008 (frozen)
        logprobs: CompletionLogprobs | None = None,
        reference: ReferencePolicy = Fixed(),  # noqa: B008 (frozen)
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=1e-6, weight_decay=0.0),
        schedule: LRSchedulerCallable | None = None,
        max_rows: int = 512,
    ) -> None:
        super().__init__(network, text, TokenMean(), optimizer, schedule, max_rows)
        self.objective = PreferenceObjective.of(loss, logprobs)
        self.reference_policy = reference
        self.mismatch_nats = torch.zeros(())

    @property
    def reference_as_drawn(self) -> bool:
        """Whether batches must bring the log-probs of the policy that drew them."""
        return self.objective.compares and isinstance(self.reference_policy, AsDrawn)

    def configure_model(self) -> None:
        """Loads the policy with dropout off, and makes the reference where the loss compares with one."""
        super().configure_model()
        disable_dropout(self.policy)
        if self.objective.compares and KEY not in self._modules:
            self.reference = Reference(self.reference_policy, self)

    def on_fit_start(self) -> None:
        """Makes sure that a resumed run compares with the same reference, and names it."""
        if KEY in self._modules:
            self.reference.begin(self)

    def training_step(self, batch: TokenBatch, batch_idx: int) -> Tensor:
        """The batch's share of the step's loss."""
        batch = learned_from(batch)
        reference = self._reference_logprobs(batch, Phase.SCORING)
        with self.ledger.phase(Phase.UPDATE):
            logprobs = token_logprobs(self.policy, batch, ledger=self.ledger)
        losses, weights, stats = self._losses(logprobs, reference, batch, self.mismatch_nats)
        return self.reduce(losses, batch, stats, weights)

    def validation_step(self, batch: TokenBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """The mean loss over held-out pairs or completions, and the share of them on the right side."""
        reference = self._reference_logprobs(batch, Phase.EVALUATION)
        with self.ledger.phase(Phase.EVALUATION):
            logprobs = token_logprobs(self.policy, batch, ledger=self.ledger)
        mismatch = self.mismatch_nats
        if isinstance(batch, UnpairedBatch) and reference is not None:
            total, count = self.objective.mismatch(logprobs - reference, batch)
            mismatch = total / count.clamp(min=1)
        losses, weights, stats = self._losses(logprobs, reference, batch, mismatch)
        live = weights != 0  # none in what fills up a rank's share
        values = {"val/loss": losses, "val/preference_accuracy": stats["preference/accuracy"]}
        for name, value in values.items():
            self.log(
                names.known(name),
                masked_mean(value, live),
                batch_size=int(live.sum()),
                sync_dist=True,
                prog_bar=True,
                add_dataloader_idx=False,
            )

    def _losses(
        self, logprobs: Tensor, reference: Tensor | None, batch: TokenBatch, mismatch: Tensor
    ) -> Losses:
        """Losses, their weights and statistics, all (P,) or (S,), from log-probs (B, T).

        Raises:
            InputError: for a batch of another kind than the loss.
        """
        if isinstance(batch, PreferenceBatch):
            return self.objective.of_pairs(logprobs, reference, batch)
        if isinstance(batch, UnpairedBatch):
            return self.objective.of_completions(logprobs, reference, batch, mismatch)
        raise InputError(
            f"DPOModule learns from pairs or single completions, and was given a {type(batch).__name__}; use "
            "PreferenceData, PreferenceRounds or UnpairedData"
        )

    @torch.no_grad()
    def _reference_logprobs(self, batch: Any, phase: Phase) -> Tensor | None:
        """Those (B, T) that the batch brings, or those of the reference; None where the loss needs none."""
        if not self.objective.compares:
            return None
        brought = getattr(batch, "reference_logprobs", None)  # absent in batches that are refused later
        if brought is not None:
            self.reference.release()
            return brought
        with self.ledger.phase(phase), self.reference.network(self) as network:
            return token_logprobs(network, batch, ledger=self.ledger)

    def reference_digest(self) -> str:
        """Names the log-probs of the reference: its weights, and the precision.

        Raises:
            InputError: where it moves, or there is none, so that nothing can be computed beforehand.
        """
        if not self.objective.compares:
            raise InputError("the loss compares with no reference; remove reference_cache")
        if not isinstance(self.reference_policy, Fixed):
            raise InputError(
                f"the reference is a {type(self.reference_policy).__name__} and will not stay as it is, so its "
                "log-probs cannot be kept; remove reference_cache, or set the reference to Fixed"
            )
        network = self.reference_policy.network or self.network
        settings = (network.dtype, network.fp32_head, network.quantisation, str(self.trainer.precision))
        return f"{self.reference.digest(self)} {' '.join(map(str, settings))}"

    @torch.no_grad()
    def score_reference(self, batch: TokenBatch) -> Tensor:
        """The reference's log-probs (B, T) of the tokens under the mask, in nats; the cache asks for them."""
        precision = self.trainer.precision_plugin.forward_context()
        with self.ledger.phase(Phase.SCORING), precision, self.reference.network(self) as network:
            return token_logprobs(network, batch, ledger=self.ledger)

    @torch.no_grad()
    def before_step(self, batches: Sequence[TokenBatch]) -> None:
        """Estimates the KL that losses on single completions count from, over the whole step; collective."""
        estimates = any(isinstance(one, UnpairedBatch) and bool(one.mismatched.any()) for one in batches)
        if self._over_ranks(torch.tensor(float(estimates)), "max") == 0:
            return
        self._follow_steps()
        sums = torch.zeros(2, device=self.device)
        with self.trainer.precision_plugin.forward_context():
            for one in batches:
                assert isinstance(one, UnpairedBatch)
                batch = mismatched_only(one).to(self.device)
                reference = self._reference_logprobs(batch, Phase.SCORING)
                assert reference is not None
                with self.ledger.phase(Phase.SCORING):
                    ratio = token_logprobs(self.policy, batch, ledger=self.ledger) - reference
                sums += torch.stack(self.objective.mismatch(ratio, batch))
        total, count = self._over_ranks(sums, "sum")
        self.mismatch_nats = total / count.clamp(min=1)

    def on_train_batch_start(self, batch: TokenBatch, batch_idx: int) -> None:
        """Lets the reference follow after each optimiser step."""
        self._follow_steps()
        super().on_train_batch_start(batch, batch_idx)

    def _follow_steps(self) -> None:
        if KEY in self._modules:
            self.reference.follow_steps(self)

    def draw(self, prompts: PromptBatch, drawing: Drawing, index: int, seed: int) -> list[Candidate]:
        """Graded completions of the current policy; PreferenceRounds asks for them."""
        return draw_candidates(self, prompts, drawing, index, seed)

    def begin_round(self, number: int) -> None:
        """Lets the reference follow, where its settings go by rounds; `number` is from 0."""
        if KEY in self._modules:
            self.reference.follow_round(self, number)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the reference: its version and hash, and its weights where they cannot be rebuilt."""
        super().on_save_checkpoint(checkpoint)
        if KEY in self._modules:
            self.reference.save(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on with the reference of the checkpoint.

        Raises:
            InputError: if its weights are not those of the reference that this config has.
        """
        super().on_load_checkpoint(checkpoint)
        if KEY in self._modules:
            self.reference.load(checkpoint)


def learned_from(batch: TokenBatch) -> TokenBatch:
    """A batch without the rows that only an estimate needs, which would pass through the backward for nothing."""
    if not isinstance(batch, UnpairedBatch) or batch.is_packed:
        return batch
    return collate.take(batch, (~batch.mismatched).nonzero().squeeze(-1).tolist() or [0])


def mismatched_only(batch: UnpairedBatch) -> UnpairedBatch:
    """The rows that the estimate is made from; one row where there are none, so that all processes do the same."""
    if batch.is_packed:
        return batch
    return collate.take(batch, batch.mismatched.nonzero().squeeze(-1).tolist() or [0])
