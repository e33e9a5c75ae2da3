"""A trainer that is measured."""

from typing import Any

import lightning.pytorch as pl

from gpu_bench.sizes import Size


def trainer(size: Size, steps: int, precision: str = "bf16-mixed", **settings: Any) -> pl.Trainer:
    """One device, nothing written, nothing shown."""
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "limit_val_batches": 0,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
    }
    return pl.Trainer(
        accelerator=size.accelerator,
        devices=1,
        max_steps=steps,
        precision=precision,  # type: ignore[arg-type]
        accumulate_grad_batches=size.micro_batches,
        **(quiet | settings),
    )
