"""Supervised fine-tuning: the negative log-likelihood of given answers, or of kept ones of its own."""

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from lit_posttrain.batches import PromptBatch, TokenBatch
from lit_posttrain.candidates import Candidate
from lit_posttrain.contracts import Drawing, TokenWeights
from lit_posttrain.errors import InputError
from lit_posttrain.ledger import Phase
from lit_posttrain.methods.base import PostTrainModule
from lit_posttrain.methods.drawing import begin_again, draw_candidates
from lit_posttrain.networks import NetworkConfig, token_and_mean_logprobs, token_logprobs
from lit_posttrain.objectives.language import negative_log_likelihood, smoothed_cross_entropy
from lit_posttrain.objectives.masked import masked_mean
from lit_posttrain.objectives.weights import TokenMean
from lit_posttrain.text import TextConfig

VALIDATION = ("val/loss", "val/replay_loss")


class SFTModule(PostTrainModule):
    """Trains a causal language model on prompt-answer pairs.

    Args:
        network: The policy: hub id, local folder or config, its precision and adapter.
        text: The tokenizer and chat template; by default those of `network.path`.
        weighting: How the tokens of a step are weighed; the mean over tokens is the usual loss.
        optimizer: Any class of torch.optim.
        schedule: A learning-rate schedule by optimiser step, such as WarmupDecay; none keeps the rate constant.
        max_rows: Completions that probes write at the same time.
        label_smoothing: Share of each target that is spread over the whole vocabulary; 0 trains on the tokens
            alone. What is reported as negative log-likelihood, and `val/loss`, is never smoothed.
    """

    def __init__(
        self,
        network: NetworkConfig,
        text: TextConfig | None = None,
        weighting: TokenWeights = TokenMean(),
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=1e-5, weight_decay=0.0),
        schedule: LRSchedulerCallable | None = None,
        max_rows: int = 512,
        label_smoothing: float = 0.0,
    ) -> None:
        if not 0 <= label_smoothing < 1:
            raise InputError(f"label_smoothing is a share in [0, 1); got {label_smoothing}")
        super().__init__(network, text, weighting, optimizer, schedule, max_rows)
        self.label_smoothing = label_smoothing

    def training_step(self, batch: TokenBatch, batch_idx: int) -> Tensor:
        """The batch's share of the step's loss."""
        with self.ledger.phase(Phase.UPDATE):
            loss, likelihood = self._losses(batch)
        return self.reduce(loss, batch, {"train/negative_log_likelihood_nats": likelihood})

    def _losses(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """What is minimised, and the negative log-likelihood; the same without smoothing."""
        if not self.label_smoothing:
            loss = negative_log_likelihood(token_logprobs(self.policy, batch, ledger=self.ledger))
            return loss, loss
        logprobs, means = token_and_mean_logprobs(self.policy, batch, ledger=self.ledger)
        return smoothed_cross_entropy(logprobs, means, self.label_smoothing), negative_log_likelihood(
            logprobs
        )

    def validation_step(self, batch: TokenBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Mean negative log-likelihood over all held-out answer tokens, however they are batched.

        A second loader holds what is replayed, and is reported apart.
        """
        with self.ledger.phase(Phase.EVALUATION):
            loss = negative_log_likelihood(token_logprobs(self.policy, batch, ledger=self.ledger))
        live = batch.weights != 0  # none in what fills up a rank's share
        self.log(
            VALIDATION[dataloader_idx],
            masked_mean(loss, live),
            batch_size=int(live.sum()),
            sync_dist=True,
            prog_bar=True,
            add_dataloader_idx=False,
        )

    def draw(self, prompts: PromptBatch, drawing: Drawing, index: int, seed: int) -> list[Candidate]:
        """Graded completions of the current policy; the loader of an expert iteration asks for them."""
        return draw_candidates(self, prompts, drawing, index, seed)

    def restart(self) -> None:
        """Gives the policy the weights that it started with, and the optimiser an empty state."""
        begin_again(self)
