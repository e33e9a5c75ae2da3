"""Speed and memory of a large random network: supervised steps, rollouts and what is learned from them."""

import tempfile
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from gpu_bench.clock import Step, StepClock, device_name, model_flops, now, peak_flops, peak_memory_gib
from gpu_bench.sizes import TEXT, Digits, EvenTokens, Size
from gpu_bench.training import trainer
from lit_posttrain.batches import Sampling
from lit_posttrain.checkpoints import folder
from lit_posttrain.checkpoints.io import FolderIO
from lit_posttrain.data import ChatData, PromptData
from lit_posttrain.methods import GRPOModule, SFTModule
from lit_posttrain.methods.rollouts import Rollouts
from lit_posttrain.networks import NetworkConfig


def supervised(size: Size) -> dict[str, Any]:
    """SFT steps of the large network, then a checkpoint of it."""
    module = SFTModule(NetworkConfig(config=size.network), TEXT)
    data = ChatData(
        Digits(size.sequences * (size.steps + size.warm_up), 8, size.sequence_tokens),
        batch_sequences=size.sequences,
        validation_split=None,
    )
    clock = StepClock()
    fitting = trainer(size, size.steps + size.warm_up, callbacks=[clock], plugins=[FolderIO()])
    fitting.fit(module, datamodule=data)
    return _of_updates(module, clock, size, size.sequence_tokens) | _of_checkpoint(fitting)


def online(size: Size) -> dict[str, Any]:
    """GRPO steps of the large network: what is drawn, and what is learned from it."""
    module = GRPOModule(
        NetworkConfig(config=size.network),
        EvenTokens(),
        TEXT,
        rollouts=Rollouts(size.group_size, Sampling(max_new_tokens=size.new_tokens)),
    )
    data = PromptData(
        Digits(size.problems * (size.steps + size.warm_up), size.prompt_tokens),
        problems_per_rollout=size.problems,
    )
    clock = StepClock()
    trainer(size, size.steps + size.warm_up, callbacks=[clock]).fit(module, datamodule=data)
    draws = clock.draws[size.warm_up :]
    seconds, tokens = sum(draw.seconds for draw in draws), sum(draw.tokens for draw in draws)
    steps = clock.steps[size.warm_up :]
    return _of_updates(module, clock, size, size.prompt_tokens + size.new_tokens) | {
        "decode_tokens_per_s": tokens / seconds,
        "decoded_tokens": tokens,
        "rollout_seconds": seconds / len(draws),
        "step_seconds": sum(step.update_s + step.waiting_s for step in steps) / len(steps),
    }


def _of_updates(module: Any, clock: StepClock, size: Size, length: int) -> dict[str, Any]:
    """Speed of the timed steps."""
    steps = clock.steps[size.warm_up : size.warm_up + size.steps]
    whole = Step(*(sum(getattr(s, name) for s in steps) for name in vars(steps[0])))
    flops = model_flops(module.policy, whole, length)
    peak = peak_flops(device_name(size.accelerator))
    return {
        "parameters": module.policy.causal.num_parameters(),
        "steps": len(steps),
        "sequence_tokens": length,
        "tokens_per_step": whole.tokens / len(steps),
        "update_seconds": whole.update_s / len(steps),
        "update_tokens_per_s": whole.tokens / whole.update_s,
        "model_tflops_per_s": flops / whole.update_s / 1e12,
        "model_flop_utilisation": None if peak is None else flops / whole.update_s / peak,
        "peak_memory_gib": peak_memory_gib(),
    }


def _of_checkpoint(fitting: pl.Trainer) -> dict[str, Any]:
    """Writing and reading weights and optimiser state."""
    with tempfile.TemporaryDirectory() as work:
        path = Path(work, "bench.ckpt")
        began = now()
        fitting.save_checkpoint(path)
        saved = now()
        content = folder.read(path)
        read = now()
        held = sum(entry.size for entry in folder.verify(path).files.values())
    return {
        "checkpoint_gib": held / 2**30,
        "save_seconds": saved - began,
        "read_seconds": read - saved,
        "checkpoint_step": content["global_step"],
    }
