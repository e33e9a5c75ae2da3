"""A network divided over processes, each holding a share of every parameter (FSDP2, with tensor parallelism)."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate

from lit_posttrain.errors import InputError
from lit_posttrain.networks.blueprint import Blueprint, Filling, announce, probe_logprobs, skeleton
from lit_posttrain.networks.config import DTYPES, NetworkConfig
from lit_posttrain.networks.flops import FlopCounts
from lit_posttrain.networks.gathering import ShardedParameters
from lit_posttrain.networks.network import CausalNetwork
from lit_posttrain.networks.products import is_attention
from lit_posttrain.networks.tensor_parallel import TensorParallel, refuse_adapters
from lit_posttrain.networks.verify import RELATIVE


@dataclass(frozen=True)
class Sharding:
    """How a network is divided over processes.

    Args:
        gather_dtype: Parameters are gathered and run in this dtype, bfloat16 to send and hold half as much; by
            default as they are held. Gradients are always added up in float32.
        reshard_after_forward: Give up a layer's gathered parameters after its forward and gather them again for
            its backward: less memory, more to send.
        cpu_offload: Hold each process's share of parameters, gradients and optimiser state in the host's memory.
    """

    gather_dtype: Literal["float32", "bfloat16"] | None = None
    reshard_after_forward: bool = True
    cpu_offload: bool = False

    def __post_init__(self) -> None:
        if self.gather_dtype not in (None, "float32", "bfloat16"):
            raise InputError(f"gather_dtype is {self.gather_dtype!r}; give float32, bfloat16 or nothing.")


def build_sharded(settings: NetworkConfig, mesh: DeviceMesh, sharding: Sharding) -> CausalNetwork:
    """The network of `build`, made in process 0 and divided over all; collective.

    The other processes hold no more than their share and what is gathered at a time: one layer, or what is in no
    layer (embedding, output head). Process 0 holds the whole network in its host's memory at the start.

    Args:
        settings: The network.
        mesh: Of all processes, with dimensions `data_parallel` and `tensor_parallel`.
        sharding: How it is divided.

    Raises:
        InputError: in every process, for a network that `build` refuses or that cannot be divided so.
    """
    device = device_of(mesh)
    layers_shared_by = mesh["tensor_parallel"].size()
    if layers_shared_by > 1:
        refuse_adapters(settings)
    refuse_undivided(settings)
    whole, blueprint = announce(settings, device)
    network = skeleton(blueprint, settings)
    network.flops = FlopCounts.found_on(network)
    _divide(network, Filling(whole, network, device), mesh, sharding, device)
    del whole
    network.sharded = ShardedParameters(
        dtype=blueprint.dtype,
        compute_dtype=_gather_dtype(sharding) or blueprint.dtype,
        device=device,
        tensor_parallel=layers_shared_by,
        reshard_after_forward=sharding.reshard_after_forward,
    )
    network.register_forward_hook(_rest, always_call=True)
    _check(network, blueprint)
    return network


def refuse_undivided(settings: NetworkConfig) -> None:
    """Raises InputError for what FSDP would not divide, or could not give back."""
    adapter = settings.adaptation
    if settings.quantisation is not None:
        raise InputError(
            "4-bit weights hold scales that are no parameters, and cannot be divided over processes; "
            "leave quantisation away, or use a strategy that keeps the network whole, such as ddp."
        )
    if adapter is not None and adapter.tokens:
        raise InputError(
            f"{adapter.label} runs beside the network's own forward, and cannot be divided over processes; "
            "use LoRA, or a strategy that keeps the network whole, such as ddp."
        )


def gradient_norms(groups: Mapping[Any, Iterable[nn.Parameter]]) -> dict[Any, Tensor]:
    """The 2-norm (0-dim) of the gradients of each group of parameters, the same in every process.

    In float64, so that the root of the sum of their squares is the norm of all together. Collective, once for all
    groups, where parameters are divided over processes: the groups must be the same there, in the same order. Plain
    gradients are taken to be equal everywhere.
    """
    held = {name: list(parameters) for name, parameters in groups.items()}
    if not held:
        return {}
    shares = next((p for ps in held.values() for p in ps if isinstance(p, DTensor)), None)
    gradients = [[p.grad for p in parameters if p.grad is not None] for parameters in held.values()]
    first = next((gradient for group in gradients for gradient in group), None)
    if shares is not None:
        device = device_of(shares.device_mesh)
    else:
        device = torch.device("cpu") if first is None else first.device
    totals = torch.stack([_squares(group).to(device) for group in gradients])
    if shares is not None:
        distributed.all_reduce(totals)
    return dict(zip(held, totals.sqrt().unbind(), strict=True))


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The 2-norm (0-dim, float32) of all gradients together, as `gradient_norms` says."""
    return gradient_norms({"": parameters})[""].float()


def device_of(mesh: DeviceMesh) -> torch.device:
    """This process's device of a mesh."""
    if mesh.device_type == "cpu":
        return torch.device("cpu")
    return torch.device(mesh.device_type, torch.get_device_module(mesh.device_type).current_device())


def decoder_layers(network: CausalNetwork) -> list[nn.Module]:
    """The layers of a network, each with its attention.

    Raises:
        InputError: for an architecture that does not keep them in one list.
    """
    for module in network.causal.base_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == network.layers:
            layers = list(module)
            if all(any(map(is_attention, layer.modules())) for layer in layers):
                return layers
    raise InputError(
        f"{network.name} has no list of {network.layers} layers with attention; it cannot be divided over processes."
    )


def _divide(
    network: CausalNetwork, filling: Filling, mesh: DeviceMesh, sharding: Sharding, device: torch.device
) -> None:
    """Part by part: filled with numbers, divided, and the share of the others given up."""
    layers = decoder_layers(network)
    tensor_parallel = mesh["tensor_parallel"]
    shared = TensorParallel(network, tensor_parallel) if tensor_parallel.size() > 1 else None
    offload = CPUOffloadPolicy(pin_memory=device.type != "cpu") if sharding.cpu_offload else OffloadPolicy()
    filling.all_buffers()
    for part in (*layers, network):
        filling.parameters_of(part)
        if shared is not None:
            shared.divide(part)
        inner = part is not network
        fully_shard(
            part,
            mesh=mesh["data_parallel"],
            reshard_after_forward=inner and sharding.reshard_after_forward,
            mp_policy=MixedPrecisionPolicy(
                param_dtype=_gather_dtype(sharding), reduce_dtype=torch.float32, cast_forward_inputs=inner
            ),
            offload_policy=offload,
        )


def _check(network: CausalNetwork, blueprint: Blueprint) -> None:
    """One forward of the root: makes FSDP take it for the root, and shows that the parts work together.

    Raises:
        InputError: in every process, if the log-probs are not those of the whole network.
    """
    found = probe_logprobs(network, network.device)
    difference = (found - blueprint.logprobs).abs().max()
    allowed = RELATIVE[network.compute_dtype] * blueprint.logprobs.abs().max().clamp_min(1.0)
    worst = (difference / allowed).to(network.device)
    distributed.all_reduce(worst, op=distributed.ReduceOp.MAX)
    if not bool(worst <= 1):
        raise InputError(
            f"{network.name} gives other log-probs when it is divided over processes (off by up to "
            f"{float(worst * allowed):.2g}); it cannot be trained so. Use a strategy that keeps it whole."
        )


def _rest(network: CausalNetwork, inputs: Any, output: Any) -> None:
    assert network.sharded is not None
    network.sharded.rest(network, failed=output is None)


def _gather_dtype(sharding: Sharding) -> torch.dtype | None:
    return None if sharding.gather_dtype is None else DTYPES[sharding.gather_dtype]


def _squares(gradients: Sequence[Tensor]) -> Tensor:
    """This process's part (0-dim, float64) of the gradients' squared norm; the parts of all processes add up to it."""
    if not gradients:
        return torch.zeros((), dtype=torch.float64)
    norms = [
        torch.linalg.vector_norm(g.to_local() if isinstance(g, DTensor) else g, dtype=torch.float32)
        for g in gradients
    ]
    squares = torch.stack(norms).double() ** 2
    counts = [_share(gradient) for gradient in gradients]
    if any(count != 1 for count in counts):
        squares = squares * torch.tensor(counts, dtype=torch.float64).to(squares.device)
    return squares.sum()


def _share(gradient: Tensor) -> float:
    """How often what a process holds of a gradient counts: less than once where others hold the same."""
    if not isinstance(gradient, DTensor):
        return 1.0
    mesh, placements = gradient.device_mesh, gradient.placements
    shards = math.prod(
        mesh.size(i) for i, placement in enumerate(placements) if not isinstance(placement, Replicate)
    )
    return shards / distributed.get_world_size()
