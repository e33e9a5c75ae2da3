"""Runs with probes of the KL to the start, on one process and on two; as a script, one of the two.

    python drift_ranks.py FOLDER RANK PORT

writes FOLDER/<strategy>-<run>-<rank>.pt.
"""

import os
import sys
from itertools import product
from pathlib import Path
from typing import Any

import torch
from fakes import TEXT, DigitCount, Numbers, prompts, tiny, trainer

from lit_posttrain.batches import Sampling
from lit_posttrain.checkpoints.io import FolderIO
from lit_posttrain.checkpoints.strategy import ShardedStrategy
from lit_posttrain.contracts import PromptSource
from lit_posttrain.data import ChatData
from lit_posttrain.methods import SFTModule
from lit_posttrain.networks import LoraSettings, NetworkConfig
from lit_posttrain.tracking.compute import ComputeMeter
from lit_posttrain.tracking.probe import AccuracyProbe

TEMPERATURE = 1.3
SAMPLES = 3
RATE = 0.5


class Held(PromptSource):
    """The first so many of the prompts that tests share."""

    def __init__(self, count: int) -> None:
        self.count, self.text = count, None

    def setup_probe(self, text: Any, split: str) -> None:
        self.text = text

    def probe_batches(self, split: str):
        yield prompts(self.text, self.count)


def probe_of(problems: int = 5, **settings: Any) -> AccuracyProbe:
    """A point after every step."""
    settings.setdefault("sampling", Sampling(temperature=TEMPERATURE, max_new_tokens=6))
    return AccuracyProbe(
        Held(problems), DigitCount(), samples_per_problem=SAMPLES, every_n_steps=1, **settings
    )


def method(network: NetworkConfig | None = None) -> SFTModule:
    """Supervised training that moves far in a few steps."""
    return SFTModule(network or tiny(), TEXT, optimizer=lambda p: torch.optim.SGD(p, lr=RATE))


def data() -> ChatData:
    return ChatData(Numbers(12), batch_sequences=6, validation_split=None)


RUNS = {"full": (None, 5), "lora": (tiny(lora=LoraSettings(rank=4)), 5), "fewer than processes": (None, 1)}
STRATEGIES = {
    "ddp": lambda: {"strategy": "ddp", "plugins": [FolderIO()]},
    "fsdp": lambda: {"strategy": ShardedStrategy(data_parallel_size=2)},
}


def points(name: str, **arguments: Any) -> list[dict[str, float]]:
    """The points of a run."""
    network, problems = RUNS[name]
    probe = probe_of(problems)
    fitting = trainer(
        max_steps=2, callbacks=[probe, ComputeMeter()], use_distributed_sampler=False, **arguments
    )
    fitting.fit(method(network), datamodule=data())
    return probe.points


def main(folder: Path, rank: int, port: str) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "NODE_RANK": "0",
        "LOCAL_RANK": str(rank), "RANK": str(rank),
    }  # fmt: skip
    torch.set_num_threads(1)
    for strategy, name in product(STRATEGIES, RUNS):
        told = points(name, devices=2, **STRATEGIES[strategy]())
        torch.save(told, folder / f"{strategy}-{name}-{rank}.pt")


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
