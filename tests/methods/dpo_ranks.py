"""The runs of DPO that must come out alike on one process and on two; as a script, one of the two processes.

    python dpo_ranks.py FOLDER RANK PORT

writes FOLDER/<strategy>-<run>-<rank>.pt and a checkpoint of each stopped run.
"""

import os
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch
from fakes import tiny, trainer
from preference_parts import adamw, completions, dpo, pairs, preference_rounds, sgd

from lit_posttrain.checkpoints.io import FolderIO
from lit_posttrain.checkpoints.strategy import ShardedStrategy
from lit_posttrain.data import ReferenceCache
from lit_posttrain.methods.references import Fixed, MovingAverage, ResetEvery
from lit_posttrain.networks import LoraSettings
from lit_posttrain.objectives.unpaired import KTO

OTHER = Fixed(tiny(seed=1))
VALIDATED = {"validation_split": "validation"}

Parts = Callable[[Path], tuple[Any, Any]]
RUNS: dict[str, Parts] = {
    "reset": lambda _: (dpo(reference=ResetEvery(steps=2), optimizer=adamw), pairs()),
    "average": lambda _: (dpo(reference=MovingAverage(0.2)), pairs(packed=True, **VALIDATED)),
    "kto": lambda _: (dpo(reference=OTHER, loss=KTO(beta=0.3)), completions(**VALIDATED)),
    "lora": lambda _: (
        dpo(tiny(lora=LoraSettings(rank=4)), reference=ResetEvery(steps=2), optimizer=sgd),
        pairs(),
    ),
    "cached": lambda folder: (
        dpo(reference=OTHER),
        pairs(reference_cache=ReferenceCache(str(folder / "cache"))),
    ),
    "rounds": lambda _: (dpo(reference=ResetEvery(rounds=1)), preference_rounds()),
}
MEASURED = ("average", "kto")
"""Those with held-out data."""
STRATEGIES: dict[str, Callable[[], dict[str, Any]]] = {
    "ddp": lambda: {"strategy": "ddp", "plugins": [FolderIO()]},
    "fsdp": lambda: {"strategy": ShardedStrategy(data_parallel_size=2)},
}
STEPS, CUT_AT = 5, 3


def fit(name: str, folder: Path, *, save: Path | None = None, go_on: Path | None = None, **arguments: Any):
    """The policy after the run, whole, what was measured on held-out data, and the version of the reference."""
    module, data = RUNS[name](folder)
    fitting = trainer(
        max_steps=CUT_AT if save else STEPS,
        accumulate_grad_batches=2,
        limit_val_batches=1.0 if name in MEASURED else 0,
        use_distributed_sampler=False,
        **arguments,
    )
    fitting.fit(module, datamodule=data, ckpt_path=go_on)
    if save:
        fitting.save_checkpoint(save)
    weights = {n: whole(p) for n, p in module.policy.named_parameters()}
    told = {n: v for n, v in fitting.callback_metrics.items() if n.startswith("val/")}
    return weights | told | {"version": torch.tensor(float(module.reference.version))}


def whole(parameter: Any) -> torch.Tensor:
    plain = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
    return plain.detach().cpu().clone()


def main(folder: Path, rank: int, port: str) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "NODE_RANK": "0",
        "LOCAL_RANK": str(rank), "RANK": str(rank),
    }  # fmt: skip
    torch.set_num_threads(1)
    for strategy, name in product(STRATEGIES, RUNS):
        torch.save(
            fit(name, folder, devices=2, **STRATEGIES[strategy]()), folder / f"{strategy}-{name}-{rank}.pt"
        )
    for strategy in STRATEGIES:
        stopped = folder / f"{strategy}-reset.ckpt"
        fit("reset", folder, save=stopped, devices=2, **STRATEGIES[strategy]())
        again = fit("reset", folder, go_on=stopped, devices=2, **STRATEGIES[strategy]())
        torch.save(again, folder / f"on-{strategy}-reset-{rank}.pt")


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
