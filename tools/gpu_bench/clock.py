"""Times that are true on a GPU, where a call returns before its work is done, and what they mean for the device."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch

PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10": 125.0,
    "RTX 4090": 165.0,
}
"""Matrix products in bfloat16 without sparsity, TFLOP/s, as the makers state; the first name that fits counts."""


@dataclass
class Step:
    """One optimiser step: seconds of its micro-batches and of waiting for them, tokens, and those the head read."""

    update_s: float = 0.0
    waiting_s: float = 0.0
    tokens: int = 0
    head_tokens: int = 0


@dataclass(frozen=True)
class Draw:
    """One call of the engine."""

    seconds: float
    tokens: int


class StepClock(pl.Callback):
    """Times every optimiser step and every rollout."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.draws: list[Draw] = []
        self._mark = 0.0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Puts a clock around the engine."""
        engine: Any = pl_module.engine
        generate = engine.generate

        def timed(requests: Sequence[Any], finished: Any = None) -> Any:
            began = now()
            drawn = generate(requests, finished)
            tokens = sum(len(completion.tokens) for group in drawn for completion in group)
            self.draws.append(Draw(now() - began, tokens))
            return drawn

        engine.generate = timed

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        self._mark = now()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The time since the last micro-batch was waiting."""
        if len(self.steps) == trainer.global_step:
            self.steps.append(Step())
        step = self.steps[-1]
        step.waiting_s += self._lap()
        step.tokens += int((batch.segments > 0).sum())
        step.head_tokens += int(batch.mask.sum())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The time since the micro-batch came was its update."""
        self.steps[-1].update_s += self._lap()

    def _lap(self) -> float:
        before, self._mark = self._mark, now()
        return self._mark - before


def now() -> float:
    """Seconds, once the device has done all it was told to."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def device_name(accelerator: str) -> str:
    """Of the device that is measured."""
    return torch.cuda.get_device_name() if accelerator == "gpu" else "cpu"


def peak_flops(device: str) -> float | None:
    """FLOP/s that the device could do at best in bfloat16, if it is in the table."""
    return next((tera * 1e12 for name, tera in PEAK_TFLOPS.items() if name in device), None)


def peak_memory_gib() -> float | None:
    """The most memory that tensors took in this process."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None


def model_flops(network: Any, step: Step, length: int) -> float:
    """FLOPs that a step needs at least: forward once, backward twice, causal attention, nothing run twice.

    Args:
        network: A CausalNetwork.
        step: Whose tokens.
        length: Tokens of each sequence.
    """
    config = network.hf_config
    head = network.causal.get_output_embeddings().weight.numel()
    body = network.causal.num_parameters() - head
    attention = 2 * length * config.hidden_size * config.num_hidden_layers  # half of the full square
    return 3 * (step.tokens * (2 * body + attention) + step.head_tokens * 2 * head)
