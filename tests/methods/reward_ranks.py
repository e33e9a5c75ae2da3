"""Reward models that must come out alike on one process and on two; as a script, one of the two.

    python reward_ranks.py FOLDER RANK PORT

writes FOLDER/<strategy>-<run>-<rank>.pt.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from fakes import tiny, trainer
from reward_cases import data_of, reward

from lit_posttrain.checkpoints.io import FolderIO
from lit_posttrain.checkpoints.strategy import ShardedStrategy
from lit_posttrain.methods import Bootstrap
from lit_posttrain.networks import LoraSettings, ScoreHead

LORA = {"lora": LoraSettings(rank=2)}
RUNS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "pairs": ("pairs", {}, {"bootstrap": Bootstrap()}),
    "packed pairs, lora": ("pairs", LORA, {}),
    "steps, lora": ("steps", LORA, {}),
}
STRATEGIES = {
    "ddp": lambda: {"strategy": "ddp", "plugins": [FolderIO()]},
    "fsdp": lambda: {"strategy": ShardedStrategy(data_parallel_size=2)},
}


def fit(name: str, *, save: Path | None = None, **arguments: Any) -> dict[str, torch.Tensor]:
    """The parameters after six steps, whole, and the figures on held-out data."""
    kind, adapter, settings = RUNS[name]
    module = reward(network=tiny(head=ScoreHead(2), **adapter), **settings)
    packing = {"packed": True, "row_tokens": 40} if "packed" in name else {}
    fitting = trainer(
        max_steps=6, accumulate_grad_batches=2, gradient_clip_val=0.5, limit_val_batches=1.0,
        check_val_every_n_epoch=1, log_every_n_steps=1, use_distributed_sampler=False, **arguments,
    )  # fmt: skip
    fitting.fit(module, datamodule=data_of(kind, **packing))
    if save is not None:
        fitting.save_checkpoint(save)
    weights = {name: whole(p) for name, p in module.policy.named_parameters()}
    logged = fitting.callback_metrics.items()
    return weights | {k: v.cpu() for k, v in logged if k.startswith(("val/", "preference/", "train/loss"))}


def whole(parameter: Any) -> torch.Tensor:
    plain = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
    return plain.detach().cpu().clone()


def main(folder: Path, rank: int, port: str) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "NODE_RANK": "0",
        "LOCAL_RANK": str(rank), "RANK": str(rank),
    }  # fmt: skip
    torch.set_num_threads(1)
    for strategy, arguments in STRATEGIES.items():
        for name in RUNS:
            result = fit(name, save=folder / f"{strategy}-{name}.ckpt", devices=2, **arguments())
            torch.save(result, folder / f"{strategy}-{name}-{rank}.pt")


def leave() -> None:
    """Ends at once: torch's threads, alive at the interpreter's end, now and then abort a process that is done."""
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    leave()
