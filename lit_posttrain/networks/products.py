"""Which matrix products a network runs, forward, backward and again, seen on two tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lit_posttrain.errors import InputError
from lit_posttrain.networks import masks
from lit_posttrain.networks.adapter_products import (
    AdapterProducts,
    adapter_modules,
    adapter_products,
    whole_matrices,
)
from lit_posttrain.networks.score_head import output_layer
from lit_posttrain.networks.shapes import attention_shape
from lit_posttrain.networks.targets import is_linear, linear_shape

if TYPE_CHECKING:
    from lit_posttrain.networks.network import CausalNetwork


@dataclass(frozen=True)
class Rates:
    """FLOPs per position of the layers, per position of the head, per pair of attention, and per forward."""

    position: float
    head: float
    pair: float
    forward: float = 0.0

    def flops(self, positions: int, head_positions: int, pairs: int) -> float:
        """FLOPs of so much work in one forward."""
        return self.position * positions + self.head * head_positions + self.pair * pairs + self.forward


def find_rates(network: "CausalNetwork", *, backward: bool) -> Rates:
    """Sends two tokens forward, and back where asked, and adds up the products that run.

    Raises:
        InputError: for weights whose use we cannot count, such as experts.
    """
    refuse_unknown_weights(network)
    layers = {module: Linear(module) for module in network.modules() if is_linear(module)}
    attentions = {module: Attention() for module in network.modules() if is_attention(module)}
    adapters = {module: adapter_products(module) for module in adapter_modules(network)}
    head_module = output_layer(network.causal)
    with watching(layers, attentions, adapters, whole_matrices(network)) as backward_began:
        states_need_gradient = probe(network, backward, backward_began)
    if backward and network.seen_tokens:  # trained keys and values, which come from no projection
        for attention in attentions.values():
            attention.needs |= {"key": True, "value": True}
    shape = attention_shape(network.hf_config)
    head = 2.0 * head_module.weight.numel()
    extra = int(states_need_gradient) + int(head_module.weight.requires_grad)
    again = int(network.settings.chunk_tokens > 0 and network.settings.head is None)
    return Rates(
        position=sum(layer.flops for module, layer in layers.items() if module is not head_module)
        + sum(one.position for one in adapters.values()),
        head=head * (1 + backward * (extra + again)),
        pair=2.0 * shape.heads * shape.head_dimension * sum(one.products for one in attentions.values()),
        forward=sum(one.forward for one in adapters.values()),
    )


class Linear:
    """What a dense layer did: runs forward and again in the backward, and how many gradients it computes."""

    def __init__(self, module: nn.Module) -> None:
        weight = module.weight
        assert isinstance(weight, Tensor)
        self.weight = weight
        inputs, outputs = linear_shape(module)
        self.size = inputs * outputs
        self.runs = self.runs_again = self.gradients = 0

    def note(self, states: Tensor, again: bool) -> None:
        """One run with input `states`."""
        if again:
            self.runs_again += 1
            return
        self.runs += 1
        if torch.is_grad_enabled():
            self.gradients += int(states.requires_grad) + int(self.weight.requires_grad)

    @property
    def flops(self) -> float:
        """FLOPs per position."""
        return 2.0 * self.size * (self.runs + self.runs_again + self.gradients)


class Attention:
    """What an attention layer did: runs forward and again, and which of its inputs require a gradient."""

    def __init__(self) -> None:
        self.runs = self.runs_again = 0
        self.needs = {"query": False, "key": False, "value": False}

    @property
    def products(self) -> int:
        """Matrix products of size queries x keys x head dimension: two forward, up to four backward."""
        query, key, value = self.needs.values()
        scores = int(query or key)
        return 2 * (self.runs + self.runs_again) + scores + int(query) + int(key) + int(value)


def is_attention(module: nn.Module) -> bool:
    """Whether a module is an attention layer of transformers."""
    return hasattr(module, "layer_idx") and hasattr(module, "is_causal")


@contextmanager
def watching(
    layers: dict[nn.Module, Linear],
    attentions: dict[nn.Module, Attention],
    adapters: dict[nn.Module, AdapterProducts],
    matrices: dict[nn.Module, int],
) -> Iterator[Event]:
    """Notes every run in the block, but of `matrices` of so many rows; the block sets the event when its backward
    begins."""
    began = Event()

    def linear_ran(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if inputs[0].shape[:-1] != (matrices.get(module),):
            layers[module].note(inputs[0], began.is_set())

    def adapter_runs(module: nn.Module, inputs: tuple[Tensor, ...], named: Any) -> None:
        adapters[module].starts(inputs[0], named, began.is_set())

    def adapter_ran(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        adapters[module].ends(inputs[0], began.is_set())

    handles = [module.register_forward_hook(linear_ran) for module in layers]
    handles += [module.register_forward_pre_hook(adapter_runs, with_kwargs=True) for module in adapters]
    handles += [module.register_forward_hook(adapter_ran) for module in adapters]
    for module, attention in attentions.items():
        handles.append(module.register_forward_hook(_attention_ran(attention, began)))
        for name, child in module.named_children():
            if any(is_linear(part) for part in child.modules()):
                handles.append(child.register_forward_hook(_projection_ran(attention, _projects(name))))
    try:
        yield began
    finally:
        for handle in handles:
            handle.remove()


def probe(network: "CausalNetwork", backward: bool, began: Event) -> bool:
    """Two tokens through the layers, and back where asked; returns whether the states require a gradient.

    Gradients go nowhere: no parameter's `.grad` is touched and no reducer of a parallel strategy fires.
    """
    device = network.device
    ids = torch.zeros(1, 2, dtype=torch.int64, device=device)
    mask = _own_mask(network) if device.type == "meta" else None
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        with torch.set_grad_enabled(backward):
            states = network.states(ids, None, mask)
        if states.requires_grad:
            began.set()
            torch.autograd.grad(states.float().sum(), network.trainable_parameters(), allow_unused=True)
    return states.requires_grad


def _own_mask(network: "CausalNetwork") -> Any:
    """A causal mask of two tokens; transformers makes its own only after a look at numbers."""
    seen = torch.ones(1, 1, 2, 2, dtype=torch.bool, device="meta").tril()
    return masks.for_layers(seen, network.hf_config, network.compute_dtype)


def refuse_unknown_weights(network: "CausalNetwork") -> None:
    """Raises InputError for matrices outside dense layers and embeddings, as we would not count them.

    Those of adapters are known: `adapter_products` counts them, or they multiply number by number, as in IA3.
    """
    known = {inner for module in adapter_modules(network, all_kinds=True) for inner in module.modules()}
    for name, module in network.named_modules():
        if is_linear(module) or isinstance(module, nn.Embedding) or module in known:
            continue
        for own, weight in module.named_parameters(recurse=False):
            if weight.ndim > 1:
                raise InputError(
                    f"the FLOPs of {network.name} cannot be counted: {name}.{own} {tuple(weight.shape)} "
                    "is not the weight of a dense layer or an embedding."
                )


def _projects(name: str) -> tuple[str, ...]:
    """Which of query, key and value a child of an attention layer makes, by its name; none for the output."""
    if name in ("o_proj", "c_proj", "out_proj", "dense", "o_lin"):
        return ()
    alone = {"q": "query", "k": "key", "v": "value"}.get(name.split("_")[0])
    alone = name if name in ("query", "key", "value") else alone
    return (alone,) if alone else ("query", "key", "value")


def _projection_ran(attention: Attention, makes: tuple[str, ...]) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        for part in makes:
            attention.needs[part] |= isinstance(output, Tensor) and output.requires_grad

    return hook


def _attention_ran(attention: Attention, began: Event) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        if began.is_set():
            attention.runs_again += 1
        else:
            attention.runs += 1

    return hook
