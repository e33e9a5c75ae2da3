"""Dropout off for good, in train mode too: the ratio of a policy to itself must be exactly 1."""

from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd


def disable_dropout(network: nn.Module) -> int:
    """Sets every dropout of a network to 0; returns how many were on.

    Covers `nn.Dropout` modules, those of adapters, and the rates that transformers' modules and configs hold
    as numbers for functional dropout. `eval()` would not do: gradient checkpointing needs train mode.
    """
    return sum(_silence(module) for module in network.modules())


def _silence(module: nn.Module) -> int:
    if isinstance(module, _DropoutNd):
        was_on, module.p = module.p > 0, 0.0
        return int(was_on)
    config = getattr(module, "config", None)
    if config is not None and not isinstance(config, dict):
        _silence_rates(config)
    return _silence_rates(module)


def _silence_rates(owner: Any) -> int:
    rates = [name for name, value in vars(owner).items() if _is_rate(name, value)]
    for name in rates:
        setattr(owner, name, 0.0)
    return len(rates)


def _is_rate(name: str, value: Any) -> bool:
    return ("drop" in name and not name.startswith("_")) and isinstance(value, float) and value > 0
