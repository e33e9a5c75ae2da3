"""What every method shares: a policy, an optimiser, the reduction of token losses, logging; nothing else."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn

from lit_posttrain import names
from lit_posttrain.batches import TokenBatch
from lit_posttrain.contracts import Stats, TokenWeights
from lit_posttrain.errors import InputError
from lit_posttrain.ledger import Ledger
from lit_posttrain.methods.progress import rescaled
from lit_posttrain.networks import CausalNetwork, NetworkConfig, estimate, network_state, place, read_config
from lit_posttrain.networks.gradient_parts import gradient_metrics
from lit_posttrain.networks.state import (
    check_stored,
    named_optimizer_state,
    numbered_optimizer_state,
    stored_names,
    trained_names,
)
from lit_posttrain.objectives.masked import masked_sum, weighted_sum
from lit_posttrain.ranks import Ranks
from lit_posttrain.rollouts import TorchEngine
from lit_posttrain.text import ChatText, TextConfig, load_text

log = logging.getLogger(__name__)

DATASET_KEYS = ("name", "context", "digest")
"""What a checkpoint tells of the data; where it came from may be private."""


class StepStatistics:
    """Sums over the micro-batches of one optimiser step, so that what is logged speaks of the whole step.

    Names ending in `_max` keep the maximum, those in `_min` the minimum; `train/loss` is a sum; all others are means
    over what has a weight: tokens, pairs or sequences.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.maxima: dict[str, Tensor] = {}  # of minima, of the values with their sign turned
        self.tokens, self.count = torch.zeros(()), torch.zeros(())

    def add(self, loss: Tensor, tokens: Tensor, live: Tensor, stats: Mapping[str, Tensor]) -> None:
        """One micro-batch: its share of the loss, its weighted tokens (), and statistics with what counts in them.

        `live` and every statistic are (B, T), or (P,) for losses of pairs.
        """
        self.tokens = self.tokens.to(live.device) + tokens
        self.count = self.count.to(live.device) + live.sum()
        self.sums["train/loss"] = self.sums.get("train/loss", 0) + loss.detach()
        for name, values in stats.items():
            if name.endswith(("_max", "_min")):
                sign = -1 if name.endswith("_min") else 1
                top = torch.where(live, sign * values.detach(), torch.full_like(values, -torch.inf)).amax()
                self.maxima[name] = torch.maximum(self.maxima.get(name, top), top)
            else:
                self.sums[name] = self.sums.get(name, 0) + masked_sum(values.detach(), live)

    def result(self, reduce: Callable[[Tensor, str], Tensor]) -> dict[str, Tensor]:
        """The values of the step over all ranks; `reduce(tensor, "sum" or "max")` joins the ranks."""
        values = {"train/tokens": reduce(self.tokens.float(), "sum")}
        count = reduce(self.count.float(), "sum").clamp(min=1)
        for name, total in self.sums.items():
            whole = reduce(total.float(), "sum")
            values[name] = whole if name == "train/loss" else whole / count
        tops = {name: reduce(top, "max") for name, top in self.maxima.items()}
        return values | {name: -top if name.endswith("_min") else top for name, top in tops.items()}


class PostTrainModule(pl.LightningModule):
    """A policy network with its tokenizer, optimiser and books.

    Children take one batch in `training_step` and return `self.reduce(token_loss, ...)`; accumulation, clipping,
    precision and sharding are Lightning's.
    """

    policy: CausalNetwork
    engine: TorchEngine

    def __init__(
        self,
        network: NetworkConfig,
        text: TextConfig | None,
        weighting: TokenWeights,
        optimizer: OptimizerCallable,
        schedule: LRSchedulerCallable | None,
        max_rows: int,
    ) -> None:
        super().__init__()
        self.network = network
        self.text: ChatText = load_text(text or TextConfig(path=network.path))
        self.weighting = weighting
        self.make_optimizer, self.make_schedule = optimizer, schedule
        self.max_rows = max_rows
        self.ledger = Ledger()
        self.skipped_steps = 0
        self._statistics = StepStatistics()
        self._signal = 0.0
        self.strict_loading = (
            False  # a reference network is not stored; `on_load_checkpoint` is stricter than this
        )

    def configure_model(self) -> None:
        """Loads the policy, once, after saying how much memory it will take."""
        if "policy" in self._modules:
            return
        log.info("%s", estimate(self.network))
        self.policy = place(self.network, self._trainer)
        self._check_vocabulary()
        self.engine = TorchEngine(self.policy, self.text, self.ledger, max_rows=self.max_rows)

    @property
    def ranks(self) -> Ranks:
        """This process among those that train on different data."""
        return Ranks.of(self.trainer)

    @property
    def max_positions(self) -> int:
        """Tokens of the longest sequence that the network takes."""
        adapter = self.network.adaptation
        return int(read_config(self.network).max_position_embeddings) - (adapter.tokens if adapter else 0)

    def _check_vocabulary(self) -> None:
        have, need = self.policy.hf_config.vocab_size, self.text.highest_id + 1
        if need > have:
            raise InputError(
                f"the tokenizer writes ids up to {need - 1}, the network has embeddings for {have}; "
                "give the tokenizer that belongs to the network, or a config with a larger vocab_size"
            )

    def trained_networks(self) -> dict[str, nn.Module]:
        """What the optimiser moves, by name."""
        return {"policy": self.policy}

    def parameter_groups(self) -> Any:
        """What the optimiser is given: trainable parameters, or groups of them with settings of their own."""
        return (p for p in self.policy.parameters() if p.requires_grad)

    def configure_optimizers(self) -> Any:
        """The optimiser over trainable parameters, and the schedule by optimiser step."""
        optimizer = self.make_optimizer(self.parameter_groups())
        if self.make_schedule is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.make_schedule(optimizer), "interval": "step"},
        }

    def reduce(
        self, losses: Tensor, batch: TokenBatch, stats: Stats, weights: Tensor | None = None
    ) -> Tensor:
        """The batch's share of the step's loss, scaled so that Lightning's averaging gives exactly the sum.

        Weights sum to 1 over the step; Lightning divides by the number of micro-batches and averages over ranks.

        Args:
            losses: Of tokens (B, T), or whatever `weights` speak of.
            batch: The micro-batch.
            stats: By metric name, of the shape of `losses`.
            weights: Of the shape of `losses`; by default those of the tokens.
        """
        shares = batch.weights if weights is None else weights
        loss = weighted_sum(losses, shares)
        self._statistics.add(loss, (batch.weights != 0).sum(), shares != 0, stats)
        return loss * self.trainer.accumulate_grad_batches * self.ranks.count

    def on_train_batch_start(self, batch: TokenBatch, batch_idx: int) -> None:
        """Notes whether the step has any signal."""
        self._signal += float(batch.weights.abs().sum())
        self.ledger.count_trained(int((batch.weights != 0).sum()))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Logs the whole step: statistics, gradient norms before clipping, learning rate."""
        values = self._statistics.result(self._over_ranks) | gradient_metrics(self.trained_networks())
        values["train/learning_rate"] = torch.tensor(float(optimizer.param_groups[0]["lr"]))
        values["train/skipped_steps"] = torch.tensor(float(self.skipped_steps))
        self.log_dict({names.known(name): value for name, value in values.items()})

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Steps, unless no token of the whole step had a weight: AdamW would move on zero gradients."""
        if self._over_ranks(torch.tensor(self._signal), "sum") > 0:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        else:
            if optimizer_closure is not None:
                optimizer_closure()
            optimizer.zero_grad()
            self.skipped_steps += 1
        self._statistics, self._signal = StepStatistics(), 0.0

    def _over_ranks(self, tensor: Tensor, how: str) -> Tensor:
        """The sum or maximum over the ranks' different data; collective."""
        joined = self.trainer.strategy.reduce(tensor.to(self.device), reduce_op=how)
        assert isinstance(joined, Tensor)
        return joined / self.ranks.replicas if how == "sum" else joined

    def record(self, values: Mapping[str, float]) -> None:
        """Logs values outside of Lightning's hooks, at the current optimiser step, to every logger."""
        for name in values:
            names.known(name)
        self.trainer.callback_metrics.update({name: torch.tensor(float(v)) for name, v in values.items()})
        for logger in self.trainer.loggers:
            logger.log_metrics(dict(values), step=self.global_step)

    def fire(self, hook: str, *arguments: Any) -> None:
        """Calls a hook of ours on every callback that has it: `hook(trainer, module, *arguments)`."""
        for callback in getattr(self.trainer, "callbacks", []):
            method = getattr(callback, hook, None)
            if method is not None:
                method(self.trainer, self, *arguments)

    def stop(self, reason: str) -> None:
        """Ends the training after this step."""
        log.warning("training stops: %s", reason)
        self.trainer.should_stop = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what an export needs, and leaves weights out that are not trained.

        Under LoRA the base is named by a digest. Optimiser states are by parameter name, so that any number of
        processes can go on.
        """
        kept = {f"policy.{name}" for name in stored_names(self.policy)}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in kept}
        data: Any = getattr(self.trainer, "datamodule", None)
        entries = data.datasets() if hasattr(data, "datasets") else []
        checkpoint["lit_posttrain"] = {
            **network_state(self.policy, self.text),
            "method": type(self).__name__,
            "datasets": [{key: entry[key] for key in DATASET_KEYS} for entry in entries],
        }
        checkpoint["skipped_steps"] = self.skipped_steps
        checkpoint["micro_batches"] = self.trainer.accumulate_grad_batches
        if not isinstance(self.trainer.strategy, ModelParallelStrategy):  # which has them by name
            states, order = checkpoint.get("optimizer_states", []), trained_names(self)
            checkpoint["optimizer_states"] = [named_optimizer_state(state, order) for state in states]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of another network, and lets loops go on with another accumulation.

        Raises:
            InputError: naming the parameters that are missing or unknown.
        """
        self.configure_model()
        check_stored(self.policy, checkpoint, prefix="policy.")
        self.skipped_steps = checkpoint.get("skipped_steps", 0)
        if not isinstance(self.trainer.strategy, ModelParallelStrategy):
            states, order = checkpoint.get("optimizer_states", []), trained_names(self)
            checkpoint["optimizer_states"] = [numbered_optimizer_state(state, order) for state in states]
        if "loops" in checkpoint:
            k = self.trainer.accumulate_grad_batches
            fit = rescaled(checkpoint["loops"]["fit_loop"], checkpoint["micro_batches"], k)
            checkpoint["loops"] = {**checkpoint["loops"], "fit_loop": fit}
