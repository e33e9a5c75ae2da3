"""Tiny random networks of four architectures, and batches of random tokens for them."""

from typing import Any

import pytest
import torch

from lit_posttrain.batches import TokenBatch
from lit_posttrain.networks.load import NetworkConfig, build
from lit_posttrain.networks.network import CausalNetwork

VOCABULARY = 61
ATTENTION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
ROTARY = {**ATTENTION, "intermediate_size": 48, "num_key_value_heads": 2}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": ROTARY,
    "qwen2": {**ROTARY, "tie_word_embeddings": True, "use_sliding_window": False},
    "gpt2": {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    "gemma2": {
        **ROTARY,
        "head_dim": 16,
        "sliding_window": 4,
        "final_logit_softcapping": 0.5,
        "pad_token_id": 0,
    },
}


@pytest.fixture(scope="session")
def make():
    """Builds a tiny network of an architecture; Gemma 2 caps attention scores and so runs eager."""

    def make(kind: str = "llama", **settings: Any) -> CausalNetwork:
        torch.manual_seed(0)
        shape = {"model_type": kind, "vocab_size": VOCABULARY, **SHAPES[kind], **settings.pop("shape", {})}
        if kind == "gemma2":
            settings = {"attention": "eager", **settings}
        network = build(NetworkConfig(config=shape, **settings))
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.requires_grad and parameter.ndim > 1:
                    parameter.mul_(4.0)  # a fresh network is nearly uniform; differences would drown
        return network

    return make


@pytest.fixture(scope="session")
def rows():
    """A batch from lists of sequence lengths per row: random tokens side by side, padded on the right."""

    def rows(lengths: list[list[int]], *, extra: int = 0, pad_id: int = 0, seed: int = 0) -> TokenBatch:
        tokens = max(sum(row) for row in lengths) + extra
        generator = torch.Generator().manual_seed(seed)
        ids = torch.full((len(lengths), tokens), pad_id)
        segments, positions = torch.zeros_like(ids), torch.zeros_like(ids)
        number = 0
        for row, parts in enumerate(lengths):
            start = 0
            for part in parts:
                number += 1
                here = slice(start, start + part)
                ids[row, here] = torch.randint(VOCABULARY, (part,), generator=generator)
                segments[row, here], positions[row, here] = number, torch.arange(part)
                start += part
        mask = segments > 0
        return TokenBatch(ids, segments, positions, mask, mask.float())

    return rows
