"""Supervised fine-tuning: the negative log-likelihood of given answers."""

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from lit_posttrain.batches import TokenBatch
from lit_posttrain.contracts import TokenWeights
from lit_posttrain.ledger import Phase
from lit_posttrain.methods.base import PostTrainModule
from lit_posttrain.networks import NetworkConfig, token_logprobs
from lit_posttrain.objectives.language import negative_log_likelihood
from lit_posttrain.objectives.masked import masked_mean
from lit_posttrain.objectives.weights import TokenMean
from lit_posttrain.text import TextConfig


class SFTModule(PostTrainModule):
    """Trains a causal language model on prompt-answer pairs.

    Args:
        network: The policy: hub id, local folder or config, its precision and adapter.
        text: The tokenizer and chat template; by default those of `network.path`.
        weighting: How the tokens of a step are weighed; the mean over tokens is the usual loss.
        optimizer: Any class of torch.optim.
        schedule: A learning-rate schedule by optimiser step, such as WarmupDecay; none keeps the rate constant.
        max_rows: Completions that probes write at the same time.
    """

    def __init__(
        self,
        network: NetworkConfig,
        text: TextConfig | None = None,
        weighting: TokenWeights = TokenMean(),
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=1e-5, weight_decay=0.0),
        schedule: LRSchedulerCallable | None = None,
        max_rows: int = 512,
    ) -> None:
        super().__init__(network, text, weighting, optimizer, schedule, max_rows)

    def training_step(self, batch: TokenBatch, batch_idx: int) -> Tensor:
        """The batch's share of the step's loss."""
        with self.ledger.phase(Phase.UPDATE):
            logprobs = token_logprobs(self.policy, batch, ledger=self.ledger)
        loss = negative_log_likelihood(logprobs)
        return self.reduce(loss, batch, {"train/negative_log_likelihood_nats": loss})

    def validation_step(self, batch: TokenBatch, batch_idx: int) -> None:
        """Mean negative log-likelihood over all held-out answer tokens, however they are batched."""
        with self.ledger.phase(Phase.EVALUATION):
            loss = negative_log_likelihood(token_logprobs(self.policy, batch, ledger=self.ledger))
        live = batch.weights != 0  # none in what fills up a rank's share
        self.log(
            "val/loss",
            masked_mean(loss, live),
            batch_size=int(live.sum()),
            sync_dist=True,
            prog_bar=True,
        )
