"""The network that process 0 builds, and how the others get the same one without ever holding all of it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from lit_posttrain.batches import TokenBatch
from lit_posttrain.errors import InputError
from lit_posttrain.networks.adapters import attach
from lit_posttrain.networks.attention import portable
from lit_posttrain.networks.config import NetworkConfig
from lit_posttrain.networks.load import assemble, build, random_model
from lit_posttrain.networks.network import CausalNetwork

PROBE_TOKENS = 8
"""Tokens whose log-probabilities show that a copy is right."""


@dataclass(frozen=True)
class Blueprint:
    """What every process must know of the network that process 0 has built.

    `parameters` has shape and dtype by name, `logprobs` is what `probe_logprobs` gives.
    """

    config: Any
    generation_config: Any
    original: dict[str, Any]
    base_digest: str | None
    packs: bool
    dtype: torch.dtype
    parameters: dict[str, tuple[torch.Size, torch.dtype]]
    logprobs: Tensor


def announce(settings: NetworkConfig, device: torch.device) -> tuple[CausalNetwork | None, Blueprint]:
    """Builds the network in process 0, which gets it; all get the blueprint. Collective.

    Raises:
        InputError: in every process, if the network cannot be built.
        RuntimeError: in every process, if building it fails in another way.
    """
    network, found = _try_to_build(settings) if distributed.get_rank() == 0 else (None, None)
    known = isinstance(found, (Blueprint, InputError, type(None)))
    told = [found if known else RuntimeError(f"process 0 could not build the network: {found!r}")]
    distributed.broadcast_object_list(told, src=0, device=device)
    answer: Any = told[0] if known else found
    if isinstance(answer, Exception):
        raise answer
    return network, answer


def _try_to_build(settings: NetworkConfig) -> tuple[CausalNetwork | None, Blueprint | Exception]:
    """An error comes back as a value: the other processes wait for word of it."""
    try:
        network = build(settings)
        return network, describe(network)
    except Exception as error:
        return None, error


def describe(network: CausalNetwork) -> Blueprint:
    """The blueprint of a whole network."""
    return Blueprint(
        network.hf_config,
        None if network.settings.head else network.causal.generation_config,
        network.original,
        network.base_digest,
        network.packs,
        network.dtype,
        {name: (p.shape, p.dtype) for name, p in network.named_parameters()},
        probe_logprobs(network, torch.device("cpu")),
    )


def skeleton(blueprint: Blueprint, settings: NetworkConfig) -> CausalNetwork:
    """The same network on the meta device, with its adapters and flags.

    Raises:
        InputError: if its parameters would be others than those that were loaded, or it holds numbers that are
            neither parameters nor buffers.
    """
    with torch.device("meta"):
        model = random_model(blueprint.config, settings)
    if settings.adaptation is not None:
        model = attach(model, settings.adaptation, settings.path)
    network = assemble(
        model, settings, blueprint.original, packs=blueprint.packs, digest=blueprint.base_digest
    )
    if settings.head is None:
        network.causal.generation_config = blueprint.generation_config
    _match(network, blueprint)
    return network


class Filling:
    """Turns parameters and buffers on the meta device into those of the network in process 0; collective.

    Args:
        whole: The network, in process 0.
        empty: The same on the meta device.
        device: Where the new parameters and buffers go.
    """

    def __init__(self, whole: CausalNetwork | None, empty: CausalNetwork, device: torch.device) -> None:
        self.device = device
        self.source = {} if whole is None else dict(whole.named_parameters())
        self.buffers = {} if whole is None else dict(whole.named_buffers(remove_duplicate=False))
        self.names = {parameter: name for name, parameter in empty.named_parameters()}
        self.empty = empty

    def parameters_of(self, part: nn.Module) -> None:
        """Fills what is still empty below `part`; a parameter in several places is one afterwards too."""
        made: dict[nn.Parameter, nn.Parameter] = {}
        for module in part.modules():
            for name, parameter in module._parameters.items():
                if parameter is None or not parameter.is_meta:
                    continue
                if parameter not in made:
                    made[parameter] = self._parameter(parameter)
                module._parameters[name] = made[parameter]

    def all_buffers(self) -> None:
        """Fills every buffer, also those that no checkpoint has, such as rotary frequencies."""
        for name, buffer in list(self.empty.named_buffers(remove_duplicate=False)):
            path, _, own = name.rpartition(".")
            self.empty.get_submodule(path)._buffers[own] = self._sent(self.buffers.get(name), buffer)

    def _parameter(self, empty: nn.Parameter) -> nn.Parameter:
        tensor = self._sent(self.source.pop(self.names[empty], None), empty)
        return nn.Parameter(tensor, requires_grad=empty.requires_grad)

    def _sent(self, mine: Tensor | None, like: Tensor) -> Tensor:
        if mine is None:
            tensor = torch.empty(like.shape, dtype=like.dtype, device=self.device)
        else:
            tensor = mine.detach().to(self.device).contiguous()
        distributed.broadcast(tensor, src=0)
        return tensor


def probe_batch(vocabulary: int, device: torch.device) -> TokenBatch:
    """One sequence of `PROBE_TOKENS` tokens."""
    columns = torch.arange(PROBE_TOKENS, device=device)[None]
    ones = torch.ones_like(columns)
    return TokenBatch((columns + 1) % vocabulary, ones, columns, ones.bool(), ones.float())


def probe_logprobs(network: CausalNetwork, device: torch.device) -> Tensor:
    """Log-probabilities (1, T) of the probe, in evaluation mode, on the CPU; by the root's forward.

    Of a reward model, the scores (T, K) after all its tokens.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    with torch.no_grad(), portable(network.hf_config):
        probe = probe_batch(network.hf_config.vocab_size, device)
        logprobs = network(probe, at=None if network.settings.head is None else probe.mask).cpu()
    for module, training in modes:
        module.training = training
    return logprobs


def _match(network: CausalNetwork, blueprint: Blueprint) -> None:
    empty = dict(network.named_parameters())
    shapes = {name: parameter.shape for name, parameter in empty.items()}
    loaded = {name: shape for name, (shape, _) in blueprint.parameters.items()}
    if shapes != loaded:
        strange = sorted(dict(shapes.items() ^ loaded.items()))
        raise InputError(
            f"{network.name} was loaded with other parameters than its config asks for: {len(strange)} differ, "
            f"such as {strange[:3]}; it cannot be divided over processes."
        )
    for name, parameter in empty.items():
        parameter.data = parameter.data.to(blueprint.parameters[name][1])
    for name, module in network.named_modules():
        hidden = [key for key, value in vars(module).items() if isinstance(value, Tensor)]
        if hidden:
            raise InputError(
                f"{name} of {network.name} holds numbers that are neither parameters nor buffers ({hidden}); "
                "it cannot be divided over processes."
            )
