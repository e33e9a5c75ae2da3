"""The runs that must come out alike on one process and on two; as a script, one of the two processes.

    python rank_runs.py FOLDER RANK PORT

writes FOLDER/<run>.pt from rank 0. All runs share one start, as starting costs more than all of them.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from fakes import TEXT, Numbers, grpo, ppo, prompt_data, tiny, trainer

from lit_posttrain.batches import Experience
from lit_posttrain.checkpoints.io import FolderIO
from lit_posttrain.checkpoints.strategy import ShardedStrategy
from lit_posttrain.contracts import Collected, Reuse
from lit_posttrain.data import ChatData
from lit_posttrain.methods import GRPOModule, PPOModule, SFTModule
from lit_posttrain.methods.shaping import Shaping
from lit_posttrain.networks import LoraSettings
from lit_posttrain.objectives.weights import PromptMean, SequenceMean

STEPS = 5
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=3e-3, weight_decay=0.01),
}


@dataclass(frozen=True)
class Run:
    """One of the runs to compare; clipping is strong enough to act at every step."""

    method: str
    trained: str
    optimizer: str
    micro_batches: int
    packed: bool

    @property
    def name(self) -> str:
        packing = "packed" if self.packed else "padded"
        return f"{self.method}-{self.trained}-{self.optimizer}-{self.micro_batches}-{packing}"


RUNS = [
    Run(method, trained, optimizer, k, packed)
    for method, trained, optimizer in product(("sft", "grpo", "ppo"), ("full", "lora"), OPTIMIZERS)
    for k, packed in ((2, False), (1, True))
]


def network(run: Run) -> Any:
    return tiny(lora=LoraSettings(rank=4)) if run.trained == "lora" else tiny(chunk_tokens=16)


class Recorded:
    """Learns from recorded rollouts instead of its own."""

    rollouts_given: list[Experience]

    def collect(self, prompts, index):
        given = self.rollouts_given[index % len(self.rollouts_given)]
        return Collected(Experience.from_state(given.to_state()))


def recorded(run: Run, rollouts: list[Experience]) -> GRPOModule | PPOModule:
    """With a reference and rescored old log-probs, so that scoring is divided over the ranks as well."""
    shared: dict[str, Any] = {
        "optimizer": OPTIMIZERS[run.optimizer],
        "reuse": Reuse(epochs=2, minibatches=2),
        "rollouts": {"rescore": True},
    }
    if run.method == "ppo":  # a value network of its own, a KL in the reward of tokens, everything whitened
        shaping = Shaping(whiten_rewards=True, missing_eos_penalty=0.5)
        module = ppo(network(run), shaping=shaping, **shared)
    else:
        module = grpo(network(run), weighting=PromptMean(), kl_weight=0.05, **shared)
    module.__class__ = type("Recorded", (Recorded, type(module)), {})
    module.rollouts_given = rollouts
    return module


def parts(run: Run, rollouts: list[Experience]) -> tuple[Any, Any]:
    """Module and data: seven sequences a step, so that the parts are uneven."""
    if run.method != "sft":
        return recorded(run, rollouts), prompt_data(packed=run.packed, rollouts_per_epoch=9)
    data = ChatData(Numbers(21), batch_sequences=7, packed=run.packed, row_tokens=24 * run.packed)
    module = SFTModule(network(run), TEXT, SequenceMean(), optimizer=OPTIMIZERS[run.optimizer])
    return module, data


CUT_AT = 2
ELASTIC = [run for run in RUNS if run.optimizer == "adamw" and not run.packed]


def fit(
    run: Run,
    rollouts: list[Experience],
    *,
    save: Path | None = None,
    go_on: Path | None = None,
    micro_batches: int | None = None,
    **arguments: Any,
) -> dict[str, torch.Tensor]:
    """The parameters after the run, whole, and the validation loss where there is one.

    With `save` it stops after `CUT_AT` steps and saves there; with `go_on` it goes on from such a checkpoint.
    """
    module, data = parts(run, rollouts)
    fitting = trainer(
        max_steps=CUT_AT if save else STEPS,
        accumulate_grad_batches=micro_batches or run.micro_batches,
        gradient_clip_val=0.02,
        limit_val_batches=1.0,
        check_val_every_n_epoch=1,
        use_distributed_sampler=False,
        **arguments,
    )
    fitting.fit(module, datamodule=data, ckpt_path=go_on)
    if save:
        fitting.save_checkpoint(save)
    weights = {name: whole(p) for name, p in module.policy.named_parameters()}
    if run.method == "ppo":
        weights |= {f"value.{name}": whole(p) for name, p in module.value.named_parameters()}
    return weights | {k: v for k, v in fitting.callback_metrics.items() if k == "val/loss"}


def whole(parameter: Any) -> torch.Tensor:
    plain = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
    return plain.detach().cpu().clone()


def record() -> list[Experience]:
    """Two rollouts of the starting network."""
    module, data = grpo(kl_weight=0.0), prompt_data(problems_per_rollout=7)
    kept: list[Experience] = []
    take = module.collect

    def keep(prompts: Any, index: int) -> Collected:
        collected = take(prompts, index)
        kept.extend([] if collected.experience is None else [collected.experience])
        return collected

    module.collect = keep  # type: ignore[method-assign]
    trainer(max_steps=2).fit(module, datamodule=data)
    return kept


STRATEGIES: dict[str, Callable[[], dict[str, Any]]] = {
    "ddp": lambda: {"strategy": "ddp", "plugins": [FolderIO()]},
    "fsdp": lambda: {"strategy": ShardedStrategy(data_parallel_size=2)},
    "fsdp_single": lambda: {"strategy": ShardedStrategy(data_parallel_size=2, save="single")},
}


def live(strategy: str) -> dict[str, Any]:
    """Rollouts of the policies themselves, of uneven lengths and counts, with a probe of the same."""
    module = grpo(optimizer=OPTIMIZERS["sgd"], kl_weight=0.05, rollouts={"rescore": True})
    lengths: list[list[int]] = []
    draw = module.engine_lengths = lambda answers: lengths.append(  # type: ignore[attr-defined]
        [len(a.completion.tokens) for group in answers for a in group]
    )
    module.fire = lambda hook, *arguments: draw(arguments[0]) if hook == "on_experience" else None  # type: ignore[method-assign]
    fitting = trainer(max_steps=4, devices=2, use_distributed_sampler=False, **STRATEGIES[strategy]())
    fitting.fit(module, datamodule=prompt_data(problems_per_rollout=5))
    weights = {name: whole(p) for name, p in module.policy.named_parameters()}
    return {"lengths": lengths, "weights": weights, "steps": fitting.global_step}


def main(folder: Path, rank: int, port: str) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "NODE_RANK": "0",
        "LOCAL_RANK": str(rank), "RANK": str(rank),
    }  # fmt: skip
    torch.set_num_threads(1)
    rollouts = [Experience.from_state(state) for state in torch.load(folder / "rollouts.pt")]
    for strategy, run in product(("ddp", "fsdp"), RUNS):
        result = fit(run, rollouts, devices=2, **STRATEGIES[strategy]())
        torch.save(result, folder / f"{strategy}-{run.name}-{rank}.pt")
    for strategy, run in product(STRATEGIES, ELASTIC):
        name = f"{strategy}-{run.name}"
        stopped = fit(run, rollouts, save=folder / f"{name}.ckpt", devices=2, **STRATEGIES[strategy]())
        torch.save(stopped, folder / f"at-{name}-{rank}.pt")
        one = folder / f"one-{run.name}.ckpt"
        result = fit(run, rollouts, go_on=one, micro_batches=1, devices=2, **STRATEGIES[strategy]())
        torch.save(result, folder / f"on-{name}-{rank}.pt")
    for strategy in ("ddp", "fsdp"):
        torch.save(live(strategy), folder / f"live-{strategy}-{rank}.pt")


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
