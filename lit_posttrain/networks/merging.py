"""Adapters put into the weights of their network."""

from typing import Any

import torch

from lit_posttrain.errors import InputError
from lit_posttrain.networks.adapters import AdapterSettings, attach
from lit_posttrain.networks.config import NetworkConfig
from lit_posttrain.networks.quantised import dequantise


def refuse_unmergeable(adapter: AdapterSettings) -> None:
    """Raises InputError for adapters that are no change of weights."""
    if not adapter.merges:
        raise InputError(
            f"{adapter.label} trains tokens, not weights, so it cannot be merged into the network; "
            "export it by --adapter, and load it with peft."
        )


def merge(model: Any, settings: NetworkConfig) -> Any:
    """A plain Hugging Face model that computes what a `PeftModel` does; takes the place of it.

    4-bit weights become the numbers that they stand for, in the network's dtype, before the adapter is added: the
    network that was trained, not the one that it was quantised from.

    Raises:
        InputError: for adapters that are no change of weights.
    """
    adapter = settings.adaptation
    assert adapter is not None
    refuse_unmergeable(adapter)
    if settings.quantisation is not None:
        trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        base = model.unload()
        dequantise(base)
        model = attach(base, adapter, settings.path)
        with torch.no_grad():
            for name, value in trained.items():
                model.get_parameter(name).copy_(value)
    return model.merge_and_unload(safe_merge=True)
