"""How large the gradient of each part of a network is: embedding, attention, feed-forward layers and so on."""

import re
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor, nn

from lit_posttrain.networks.sharding import gradient_norms

PARTS = ("embedding", "attention", "mlp", "norm", "head", "adapter", "other")
MAIN = "policy"
"""The network whose parts are told; of any other only the whole."""

PATTERNS = {  # of a component of a parameter's name, tried in this order
    "norm": re.compile("norm|^ln"),
    "head": re.compile("^(lm_head|embed_out|score)$"),
    "attention": re.compile("attn|attention"),
    "mlp": re.compile("mlp|ffn|feed_?forward|moe|expert|^(c_)?fc"),
    "embedding": re.compile("embed|^wte$|^wpe$"),
}


@cache
def part_of(name: str) -> str:
    """Which of `PARTS` a parameter belongs to, by its name; the innermost component that says something decides.

    Adapters belong to the layer that they sit in; `adapter` are virtual tokens, which sit in none. An output layer
    tied to the embedding is one parameter with it, and counts there.
    """
    components = name.split(".")
    if "prompt_encoder" in components:
        return "adapter"
    for component in reversed(components):
        for part, pattern in PATTERNS.items():
            if pattern.search(component):
                return part
    return "other"


def gradient_metrics(networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """`train/gradient_norm` of all networks together, before clipping, and of what they are made of.

    That of each part that the policy trains, and of each network where there are several. 0-dim, the same in every
    process; collective where processes share the parameters, once for all of it.

    Args:
        networks: Those that are trained, by name.
    """
    norms = gradient_norms(
        {(name, part): held for name, network in networks.items() for part, held in by_part(network).items()}
    )
    told = {f"_{part}": norm for (name, part), norm in norms.items() if name == MAIN}
    if len(networks) > 1:
        told |= {f"_{name}": _joint([n for (of, _), n in norms.items() if of == name]) for name in networks}
    told[""] = _joint(list(norms.values()))
    return {f"train/gradient_norm{suffix}": norm.float() for suffix, norm in told.items()}


def by_part(network: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The trained parameters of a network by part, in the order of `PARTS`; parts without any are left out."""
    found: dict[str, list[nn.Parameter]] = {part: [] for part in PARTS}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            found[part_of(name)].append(parameter)
    return {part: held for part, held in found.items() if held}


def _joint(norms: list[Tensor]) -> Tensor:
    return torch.stack(norms).square().sum().sqrt() if norms else torch.zeros(())
