"""One process with a sharded network against one with a plain one."""

from typing import Any

import lightning.pytorch as pl
import torch

from gpu_bench.sizes import SMALL, TEXT, Digits, EvenTokens, Size
from gpu_bench.training import trainer
from lit_posttrain.batches import Sampling
from lit_posttrain.checkpoints.strategy import ShardedStrategy
from lit_posttrain.data import ChatData, PromptData
from lit_posttrain.methods import GRPOModule, SFTModule
from lit_posttrain.methods.rollouts import Rollouts
from lit_posttrain.networks import NetworkConfig

AGREE = {"32-true": 1e-3, "bf16-mixed": 1e-2}
"""How far a network of one shard may be from a plain one, as a share of the way that training took."""


def agreement(size: Size) -> dict[str, Any]:
    """One process under `ShardedStrategy` against one without: do they train the same network?"""
    results: dict[str, Any] = {}
    runs = [(method, precision) for method in ("sft", "grpo") for precision in AGREE]
    plain = {run: _weights(size, *run, strategy="auto") for run in runs}
    for run in runs:
        sharded = _weights(size, *run, strategy=ShardedStrategy())
        before, after = plain[run]
        way = max(float((after[n] - before[n]).abs().max()) for n in before)
        apart = max(float((after[n] - sharded[1][n]).abs().max()) for n in before)
        tolerance = AGREE[run[1]]
        results["_".join(run)] = {
            "largest_change_by_training": way,
            "largest_difference": apart,
            "tolerance": tolerance * way,
            "agrees": way > 0 and apart <= tolerance * way,
        }
    return results


def _weights(size: Size, method: str, precision: str, strategy: Any) -> tuple[dict, dict]:
    """The parameters of a small network before and after five steps of plain SGD."""
    settings: dict[str, Any] = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1)}
    network = NetworkConfig(config=SMALL | {"initializer_range": 0.2})
    if method == "sft":
        module: Any = SFTModule(network, TEXT, **settings)
        data: Any = ChatData(Digits(40, 6, 16), batch_sequences=8, validation_split=None)
    else:
        rollouts = Rollouts(4, Sampling(max_new_tokens=8))
        module = GRPOModule(network, EvenTokens(), TEXT, rollouts=rollouts, **settings)
        data = PromptData(Digits(40, 6), problems_per_rollout=8)
    keep = _Keep()
    trainer(size, 5, precision, strategy=strategy, callbacks=[keep]).fit(module, datamodule=data)
    return keep.before, keep.after


class _Keep(pl.Callback):
    """The whole parameters at the start and at the end."""

    before: dict[str, torch.Tensor]
    after: dict[str, torch.Tensor]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.before = self._whole(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.after = self._whole(pl_module)

    @staticmethod
    def _whole(module: Any) -> dict[str, torch.Tensor]:
        held = {name: p.detach() for name, p in module.policy.named_parameters()}
        return {n: getattr(p, "full_tensor", p.clone)().float().cpu() for n, p in held.items()}
