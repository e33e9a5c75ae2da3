"""Reward models: scores of whole completions, learned from pairs or grades, or of the steps of a solution."""

from dataclasses import asdict
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from lit_posttrain import names
from lit_posttrain.batches import PreferenceBatch, RankedBatch, StepBatch, TokenBatch
from lit_posttrain.contracts import RankingLoss, RewardLoss, TokenWeights
from lit_posttrain.errors import InputError
from lit_posttrain.ledger import Phase
from lit_posttrain.methods.base import PostTrainModule
from lit_posttrain.methods.bootstrap import Bootstrap
from lit_posttrain.methods.ensemble import Judged, judged_pairs, judged_rankings, judged_steps
from lit_posttrain.methods.held_out_scores import HeldOutScores
from lit_posttrain.networks import NetworkConfig, last_tokens
from lit_posttrain.objectives.masked import masked_mean
from lit_posttrain.objectives.preference import BradleyTerry
from lit_posttrain.objectives.rankings import Regression
from lit_posttrain.objectives.weights import TokenMean
from lit_posttrain.solution_steps import StepFormat
from lit_posttrain.text import TextConfig

BRADLEY_TERRY, REGRESSION = BradleyTerry(), Regression()


class RewardModule(PostTrainModule):
    """Trains a reward model; `policy` is the network with its head, as in all methods.

    What it learns follows from the batches: pairs (`PreferenceData`), graded completions (`RankedData`) or steps
    with labels (`StepData`). The score of a completion is read after its last token, that of a step after the
    step's last token; where the head has several scores they are an ensemble on one network: the loss is the mean
    of theirs, the score the mean score, and the spread their standard deviation.

    Args:
        network: The network; its `head` must be set, as by `head: {heads: 1}`.
        text: The tokenizer and chat template; by default those of `network.path`.
        loss: Of the scores of pairs.
        ranking: Of the scores of graded completions.
        bootstrap: Let each score of an ensemble learn from its own resample of the pairs; none for all from all.
        weighting: How the steps of a `StepBatch` are weighed; pairs and graded completions bring their shares.
        optimizer: Any class of torch.optim.
        schedule: A learning-rate schedule by optimiser step, such as WarmupDecay; none keeps the rate constant.
    """

    def __init__(
        self,
        network: NetworkConfig,
        text: TextConfig | None = None,
        loss: RewardLoss = BRADLEY_TERRY,
        ranking: RankingLoss = REGRESSION,
        bootstrap: Bootstrap | None = None,
        weighting: TokenWeights = TokenMean(),
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=1e-5, weight_decay=0.0),
        schedule: LRSchedulerCallable | None = None,
    ) -> None:
        if network.head is None:
            raise InputError("a reward model needs a head; set network.head, such as {heads: 1}")
        if bootstrap is not None and network.head.heads == 1:
            raise InputError(
                "bootstrap resamples the pairs for each score of an ensemble; set head.heads ≥ 2"
            )
        super().__init__(network, text, weighting, optimizer, schedule, max_rows=1)
        self.loss, self.ranking, self.bootstrap = loss, ranking, bootstrap
        self.held_out = HeldOutScores()

    def training_step(self, batch: TokenBatch, batch_idx: int) -> Tensor:
        """The batch's share of the step's loss."""
        with self.ledger.phase(Phase.UPDATE):
            judged = self.judge(self.scores(batch), batch, self.bootstrap)
        return self.reduce(judged.losses, batch, judged.stats, judged.weights)

    def validation_step(self, batch: TokenBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """The mean loss over held-out pairs, completions or steps, and what the metrics say of the scores."""
        with self.ledger.phase(Phase.EVALUATION):
            scores = self.scores(batch)
        judged = self.judge(scores, batch, None)
        live = judged.weights != 0  # none in what fills up a rank's share
        self.log(
            "val/loss",
            masked_mean(judged.losses, live),
            batch_size=int(live.sum()),
            sync_dist=True,
            prog_bar=True,
            add_dataloader_idx=False,
        )
        self.held_out.update(scores, batch)

    def on_validation_epoch_end(self) -> None:
        """Logs what the metrics found, over all ranks."""
        self.log_dict({names.known(name): value for name, value in self.held_out.results().items()})

    def scores(self, batch: TokenBatch) -> Tensor:
        """Scores (N, K) of the batch's sequences, or of its steps, in reading order."""
        at = batch.step_ends if isinstance(batch, StepBatch) else last_tokens(batch)
        return self.policy.scores(batch, at, ledger=self.ledger)

    def judge(self, scores: Tensor, batch: TokenBatch, bootstrap: Bootstrap | None) -> Judged:
        """Losses, weights and statistics from the scores of a batch.

        Raises:
            InputError: for a batch that is neither pairs, graded completions nor steps.
        """
        if isinstance(batch, PreferenceBatch):
            return judged_pairs(scores, batch, self.loss, bootstrap)
        if isinstance(batch, RankedBatch):
            return judged_rankings(scores, batch, self.ranking)
        if isinstance(batch, StepBatch):
            return judged_steps(scores, batch)
        raise InputError(
            f"a reward model learns from pairs, grades or steps, and was given a {type(batch).__name__}; "
            "use PreferenceData, RankedData or StepData"
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds how solutions are cut into steps, where that is what was trained."""
        super().on_save_checkpoint(checkpoint)
        steps = getattr(getattr(self.trainer, "datamodule", None), "steps", None)
        if isinstance(steps, StepFormat):
            checkpoint["lit_posttrain"]["steps"] = asdict(steps)
