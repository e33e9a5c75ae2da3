"""The kinds of adapters that the tests go through, small enough for the tiny networks."""

import importlib.util

import pytest
import torch

from lit_posttrain.networks import IA3, OFT, LoraSettings, PrefixTuning, PromptTuning, Quantisation

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (extra `quant`)"
)
KINDS = {
    "lora": LoraSettings(rank=2),
    "dora": LoraSettings(rank=2, use_dora=True),
    "rslora": LoraSettings(rank=2, use_rslora=True, init="gaussian"),
    "ia3": IA3(),
    "ia3-all": IA3(target_modules="all-linear"),
    "oft": OFT(block_size=8),
    "oft-architecture": OFT(block_size=4, target_modules="architecture"),
    "prompt": PromptTuning(tokens=3),
    "prefix": PrefixTuning(tokens=3),
}
SEQUENCE = [name for name in KINDS if KINDS[name].tokens]
WEIGHTS = [name for name in KINDS if not KINDS[name].tokens]
QUANTISED = ["lora", "dora", "ia3", "oft", "prompt", "prefix"]
WIDE = {"hidden_size": 64, "intermediate_size": 128, "n_embd": 64}
"""Rows of whole blocks of 64 weights, as 4 bits want them."""
NF4 = Quantisation()
FP4 = Quantisation(kind="fp4", double=False)


def every_kind() -> list:
    """Parameters (adapter, quantisation) for `parametrize`: all kinds, and some on a network of 4 bits."""
    return _parameters(KINDS, QUANTISED)


def main_kinds() -> list:
    """The same for slower tests, without what differs in its targets or scale only."""
    return _parameters(("lora", "dora", "ia3", "oft", "prompt", "prefix"), ("lora", "ia3", "oft"))


def _parameters(plain, quantised) -> list:
    four = [pytest.param(KINDS[n], NF4, id=f"{n}-nf4", marks=needs_bitsandbytes) for n in quantised]
    return [pytest.param(KINDS[name], None, id=name) for name in plain] + four


def move(network, scale: float = 0.1, seed: int = 1) -> None:
    """Moves every trained parameter, so that the adapters do something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.trainable_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
