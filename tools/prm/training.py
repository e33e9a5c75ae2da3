"""A policy that writes derivations, and a reward model of their steps that begins as it."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from lit_posttrain.checkpoints.export import export
from lit_posttrain.checkpoints.keeper import use_folders
from lit_posttrain.data import ChatData, StepData, StepLabels
from lit_posttrain.data.sources import Derivations
from lit_posttrain.methods import RewardModule, SFTModule, WarmupDecay
from lit_posttrain.networks import NetworkConfig, ScoreHead
from lit_posttrain.text import TextConfig

TEXT = TextConfig(characters="0123456789+-*=\n")
SHAPE: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 20,
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 48,
    "tie_word_embeddings": True,
}


def source(seed: int = 0) -> Derivations:
    """Derivations of three lines, modulo 4."""
    return Derivations(operands=4, modulus=4, train_size=24_576, held_out_size=1024, seed=seed)


def train_policy(folder: Path, *, steps: int, seed: int) -> None:
    """Supervised training on right derivations from random weights, exported."""
    module = SFTModule(NetworkConfig(config=SHAPE, seed=seed, chunk_tokens=0), TEXT, **settings(steps, 3e-3))
    fit(module, ChatData(source(seed), batch_sequences=64, validation_split=None, seed=seed), steps, folder)


def train_reward_model(folder: Path, policy: Path, *, steps: int, seed: int) -> None:
    """From the policy's weights with a fresh head, on planted errors; exported."""
    network = NetworkConfig(path=str(policy), head=ScoreHead(seed=seed))
    module = RewardModule(network, None, **settings(steps, 6e-4))
    data = StepData(
        source(seed),
        batch_solutions=64,
        labels=StepLabels(until_first_error=True),
        validation_split=None,
        seed=seed,
    )
    fit(module, data, steps, folder)


def settings(steps: int, rate: float) -> dict[str, Any]:
    """Optimiser and schedule."""
    return {
        "optimizer": lambda p: torch.optim.AdamW(p, lr=rate, weight_decay=0.0),
        "schedule": lambda o: WarmupDecay(o, total_steps=steps, warmup_steps=20, final_fraction=0.1),
    }


def fit(module: pl.LightningModule, data: pl.LightningDataModule, steps: int, folder: Path) -> None:
    """Trains on one CPU and exports to the folder."""
    silent = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, limit_val_batches=0, max_steps=steps, gradient_clip_val=1.0, **silent
    )
    trainer.fit(module, datamodule=data)
    use_folders(trainer)
    checkpoint = folder.with_suffix(".ckpt")
    trainer.save_checkpoint(checkpoint)
    export(checkpoint, folder)
