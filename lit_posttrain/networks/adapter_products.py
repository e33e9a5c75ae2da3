"""The matrix products of adapters that are no dense layers: DoRA's norms and OFT's rotations.

IA3 multiplies number by number, and unpacking 4-bit weights is no product either; neither is counted, as nothing
of that kind is counted anywhere.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lit_posttrain.networks.adapters import quiet
from lit_posttrain.networks.targets import linear_shape

if TYPE_CHECKING:
    from lit_posttrain.networks.network import CausalNetwork


class AdapterProducts(ABC):
    """What a part of an adapter did: FLOPs per position, and per forward whatever its positions.

    A run that the backward asks for again may stop within a part, once nothing is missing any more.
    """

    position: float = 0.0
    forward: float = 0.0

    @abstractmethod
    def starts(self, states: Tensor, named: Mapping[str, Any], again: bool) -> None:
        """A run begins, with input `states` and named arguments; `again` says that it is one for the backward."""

    def ends(self, states: Tensor, again: bool) -> None:
        """A run has come to its end."""
        return None


class Rotation(AdapterProducts):
    """Of OFT: each position times a block-diagonal matrix, which is made in each forward.

    The matrix is a polynomial of a trained one; each of its products has two more in the backward.
    """

    def __init__(self, module: Any) -> None:
        self.inputs, self.block = module.in_features, module.block_size
        products = module.num_cayley_neumann_terms - 2
        self.making = 2.0 * products * module.r * self.block**3

    def starts(self, states: Tensor, named: Mapping[str, Any], again: bool) -> None:
        """The matrix is made."""
        self.forward += self.making * (1 + 2 * self._trained(again))

    def ends(self, states: Tensor, again: bool) -> None:
        """The positions are rotated."""
        gradients = self._trained(again) and 1 + int(states.requires_grad)
        self.position += 2.0 * self.inputs * self.block * (1 + gradients)

    def _trained(self, again: bool) -> int:
        """Whether a backward will follow; the weight of a rotation is always trained."""
        return int(torch.is_grad_enabled() and not again)


class Norms(AdapterProducts):
    """Of DoRA: the whole low-rank product is made in each forward, without a gradient, for the norms of its rows.

    With dropout the base layer is run once more, on what the dropout has left.
    """

    def starts(self, states: Tensor, named: Mapping[str, Any], again: bool) -> None:
        """A whole run, as all of it is done before anything is kept."""
        down, up, base = named["lora_A"], named["lora_B"], named["base_layer"]
        inputs, rank = linear_shape(down)
        outputs = linear_shape(up)[1]
        self.forward += 2.0 * inputs * (inputs * rank + rank * outputs)
        if named["base_result"] is None:
            gradient = states.requires_grad and torch.is_grad_enabled() and not again
            size = linear_shape(base)[0] * outputs
            self.position += 2.0 * size * (1 + int(gradient))


def adapter_modules(network: "CausalNetwork", *, all_kinds: bool = False) -> list[nn.Module]:
    """The parts of a network's adapters that run products of their own; with `all_kinds` every part."""
    if network.settings.adaptation is None:
        return []
    with quiet():
        from peft.tuners.lora.dora import DoraLinearLayer
        from peft.tuners.oft.layer import OFTRotationModule
        from peft.tuners.tuners_utils import BaseTunerLayer

    if not all_kinds:
        return [m for m in network.modules() if isinstance(m, (DoraLinearLayer, OFTRotationModule))]
    tuned = [module for module in network.modules() if isinstance(module, BaseTunerLayer)]
    parts = [getattr(module, name, None) for module in tuned for name in module.adapter_layer_names]
    return [part for part in parts if isinstance(part, nn.Module)]


def whole_matrices(network: "CausalNetwork") -> dict[nn.Module, int]:
    """The rows of the unit matrix that DoRA sends through its low-rank layers, which `Norms` counts, by layer."""
    if network.settings.adaptation is None:
        return {}
    with quiet():
        from peft.tuners.lora.layer import LoraLayer

    adapted = [m for m in network.modules() if isinstance(m, LoraLayer) and len(m.lora_magnitude_vector)]
    return {
        inner: linear_shape(module.lora_A[name])[0]
        for module in adapted
        for name in module.lora_magnitude_vector
        for inner in (module.lora_A[name], module.lora_B[name])
    }


def adapter_products(module: nn.Module) -> AdapterProducts:
    """The books of one of `adapter_modules`."""
    return Rotation(module) if hasattr(module, "num_cayley_neumann_terms") else Norms()
