"""A reward model and a DPO policy of two small networks: a pretrained one, and the same shape with random weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from lit_posttrain.data import PreferenceData
from lit_posttrain.data.sources import Table
from lit_posttrain.data.unit_limit import TooLong
from lit_posttrain.methods import DPOModule, RewardModule, WarmupDecay
from lit_posttrain.networks import NetworkConfig, ScoreHead
from lit_posttrain.objectives.preference import Sigmoid
from lit_posttrain.text import ChatText, TextConfig, load_text

CUT: TooLong = "cut_both"
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}\nQ: {{ m.content }}\nA:{% endif %}{% endfor %}"
)
SHAPE: dict[str, Any] = {  # of the pretrained network
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 5,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train.

    Args:
        steps: Optimiser steps.
        max_tokens: The longest sequence; longer ones lose the end of the reply, then the start of the prompt.
        rate: The highest learning rate; it falls to a tenth along a cosine.
        pairs: Pairs per step.
        seed: Of the order, the head and random weights.
    """

    steps: int
    max_tokens: int = 256
    rate: float = 1e-3
    pairs: int = 32
    seed: int = 0

    def settings(self) -> dict[str, Any]:
        """Optimiser and schedule."""
        return {
            "optimizer": lambda p: torch.optim.AdamW(p, lr=self.rate, weight_decay=0.0),
            "schedule": lambda o: WarmupDecay(o, total_steps=self.steps, warmup_steps=10, final_fraction=0.1),
        }


def text_config(model: Path) -> TextConfig:
    """The tokenizer of the pretrained network, and dialogues as questions and answers."""
    return TextConfig(path=str(model), template=TEMPLATE)


def chat_text(model: Path) -> ChatText:
    """The same, loaded."""
    return load_text(text_config(model))


def reward_model(network: NetworkConfig, model: Path, table: Table, plan: Plan) -> RewardModule:
    """Bradley-Terry on the training split; `network` needs a head."""
    module = RewardModule(network, text_config(model), **plan.settings())
    fit(module, table, plan)
    return module


def dpo_policy(model: Path, table: Table, plan: Plan, beta: float = 0.1) -> DPOModule:
    """DPO of the pretrained network on the training split."""
    network = NetworkConfig(path=str(model), chunk_tokens=0)
    module = DPOModule(network, text_config(model), Sigmoid(beta=beta), **plan.settings())
    fit(module, table, plan)
    return module


def pretrained(model: Path, seed: int) -> NetworkConfig:
    """The pretrained network with a fresh head."""
    return NetworkConfig(path=str(model), head=ScoreHead(seed=seed))


def random_weights(seed: int) -> NetworkConfig:
    """The same shape from random weights."""
    return NetworkConfig(config=SHAPE, seed=seed, head=ScoreHead(seed=seed))


def fit(module: pl.LightningModule, table: Table, plan: Plan) -> None:
    """Trains on one CPU."""
    data = PreferenceData(table, plan.pairs, plan.max_tokens, CUT, validation_split=None, seed=plan.seed)
    silent = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=plan.steps,
        max_epochs=-1,
        limit_val_batches=0,
        gradient_clip_val=1.0,
        **silent,
    )
    trainer.fit(module, datamodule=data)
