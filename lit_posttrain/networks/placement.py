"""Where a network lies: whole in one process, or sharded over those of the trainer's strategy."""

from typing import Any

from lit_posttrain.networks.config import NetworkConfig
from lit_posttrain.networks.load import build
from lit_posttrain.networks.network import CausalNetwork


def place(settings: NetworkConfig, trainer: Any) -> CausalNetwork:
    """The network as the trainer's strategy wants it; collective under a strategy with a device mesh.

    Args:
        settings: Which network.
        trainer: A Lightning trainer, or None outside of one.

    Raises:
        InputError: for a network that cannot be built or divided so.
    """
    strategy = None if trainer is None else trainer.strategy
    mesh = getattr(strategy, "_device_mesh", None)
    if mesh is None:
        return build(settings)
    from lit_posttrain.networks.sharding import Sharding, build_sharded

    return build_sharded(settings, mesh, getattr(strategy, "sharding", Sharding()))
