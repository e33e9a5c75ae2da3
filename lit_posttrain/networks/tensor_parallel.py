"""Layers shared by several processes: each computes some heads and some columns (tensor parallelism).

What the plan of the architecture does not name (embedding, norms, output head) is computed alike in every process.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)

from lit_posttrain.errors import InputError
from lit_posttrain.networks.config import NetworkConfig
from lit_posttrain.networks.gathering import local
from lit_posttrain.networks.network import CausalNetwork
from lit_posttrain.networks.shapes import attention_shape


class Replicated(ParallelStyle):
    """Every process has the whole parameters of a module and runs it by itself, on plain tensors.

    Args:
        heads: Whether the module sees the process's own heads alone, so that gradients add up over processes;
            otherwise all compute the same.
        made: Parameters made before, by the plain ones they were made of; keeps tied weights tied.
    """

    def __init__(self, *, heads: bool, made: dict[nn.Parameter, nn.Parameter]) -> None:
        super().__init__()
        self.heads, self.made = heads, made

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        """Makes DTensors of the parameters, as FSDP and optimisers want all of one kind."""
        for name, plain in list(module.named_parameters(recurse=False)):
            if plain not in self.made:
                whole = DTensor.from_local(plain.detach(), device_mesh, [Replicate()], run_check=False)
                self.made[plain] = nn.Parameter(whole, requires_grad=plain.requires_grad)
            module.register_parameter(name, self.made[plain])
        lent: dict[str, nn.Parameter] = {}
        module.register_forward_pre_hook(partial(self._lend, lent))
        module.register_forward_hook(partial(self._take_back, lent), always_call=True)
        return module

    def _lend(self, lent: dict[str, nn.Parameter], module: nn.Module, inputs: Any) -> None:
        for name, parameter in module._parameters.items():
            if parameter is not None:
                lent[name] = parameter
                module._parameters[name] = local(parameter, heads=self.heads)  # type: ignore[assignment]

    @staticmethod
    def _take_back(lent: dict[str, nn.Parameter], module: nn.Module, inputs: Any, output: Any) -> None:
        module._parameters.update(lent)
        lent.clear()


STYLES: dict[str, Callable[..., ParallelStyle]] = {
    "colwise": lambda made: ColwiseParallel(),
    "rowwise": lambda made: RowwiseParallel(),
    "colwise_gather_output": lambda made: ColwiseParallel(output_layouts=Replicate()),
    "rowwise_split_input": lambda made: RowwiseParallel(input_layouts=Replicate()),
    "replicated_with_grad_allreduce": lambda made: Replicated(heads=True, made=made),
    "embedding_rowwise": lambda made: Replicated(heads=False, made=made),  # right as well, for more memory
    "": lambda made: Replicated(heads=False, made=made),
}
"""What a process does with a module, by transformers' names; the last is for what no plan names."""


class TensorParallel:
    """Divides the layers of a network, still whole, over the processes of a mesh.

    Args:
        network: The network; may be on the meta device.
        mesh: One-dimensional.

    Raises:
        InputError: without a plan, or for one whose entries we do not know, for adapters, and where heads or
            columns cannot be divided evenly.
    """

    def __init__(self, network: CausalNetwork, mesh: DeviceMesh) -> None:
        refuse_adapters(network.settings)
        self.mesh = mesh
        self.styles = plan(network, mesh.size())
        self.made: dict[nn.Parameter, nn.Parameter] = {}

    def divide(self, part: nn.Module) -> None:
        """Divides what is still whole below `part`, and makes the rest known as equal in all processes."""
        for module in list(part.modules()):
            parameters = list(module.parameters(recurse=False))
            if not parameters or any(isinstance(parameter, DTensor) for parameter in parameters):
                continue
            style = STYLES[self.styles.get(module, "")](self.made)
            parallelize_module(module, self.mesh, style, src_data_rank=None)


def refuse_adapters(settings: NetworkConfig) -> None:
    """Raises InputError for adapters, whose layers no plan knows."""
    if settings.adaptation is not None:
        raise InputError(
            f"tensor parallelism does not know the layers of {settings.adaptation.label}; "
            "set tensor_parallel_size to 1, or train without adapters."
        )


def plan(network: CausalNetwork, size: int) -> dict[nn.Module, str]:
    """The style of every module that the architecture's plan names, checked for `size` processes.

    Raises:
        InputError: saying what cannot be divided.
    """
    rules = getattr(network.hf_config, "base_model_tp_plan", None)
    if not rules:
        raise InputError(
            f"transformers has no tensor-parallel plan for {network.name}; set tensor_parallel_size to 1."
        )
    unknown = {rule: style for rule, style in rules.items() if style not in STYLES}
    if unknown:
        raise InputError(
            f"the tensor-parallel plan of {network.name} asks for {unknown}; known are "
            f"{sorted(filter(None, STYLES))}. "
            "Set tensor_parallel_size to 1."
        )
    _check_heads(network, size)
    styles = {}
    for name, module in network.causal.base_model.named_modules():
        style = rules.get(re.sub(r"\.\d+(?=\.|$)", ".*", name))
        if style is not None:
            _check_module(name, module, style, size)
            styles[module] = style
    return styles


def _check_heads(network: CausalNetwork, size: int) -> None:
    shape = attention_shape(network.hf_config)
    if shape.heads % size or shape.key_heads % size:
        raise InputError(
            f"{network.name} has {shape.heads} query heads and {shape.key_heads} key heads, which {size} processes "
            "cannot share evenly; set tensor_parallel_size to a number that divides both."
        )


def _check_module(name: str, module: nn.Module, style: str, size: int) -> None:
    if style in ("replicated_with_grad_allreduce", "embedding_rowwise"):
        return
    if not isinstance(module, nn.Linear):
        raise InputError(
            f"{name} is a {type(module).__name__}; only linear layers can be divided by {style}."
        )
    length = module.out_features if style.startswith("colwise") else module.in_features
    if length % size:
        raise InputError(
            f"{name} has {length} {'outputs' if style.startswith('colwise') else 'inputs'}, which {size} processes "
            "cannot share evenly; set tensor_parallel_size to a number that divides them."
        )
