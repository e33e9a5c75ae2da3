"""Which dense layers of a network get an adapter, by the names that its architecture gives them."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from lit_posttrain.errors import InputError
from lit_posttrain.networks.score_head import output_layer

ALL_LINEAR = "all-linear"
ARCHITECTURE = "architecture"


def told(targets: str | Sequence[str]) -> str:
    """Targets in words."""
    if targets == ARCHITECTURE:
        return "the usual layers of the architecture"
    return targets if isinstance(targets, str) else ", ".join(targets)


def is_transposed(module: nn.Module) -> bool:
    """Whether a module is the dense layer of GPT-2, which holds its weight as (inputs, outputs)."""
    return type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils"


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a dense layer."""
    return isinstance(module, nn.Linear) or is_transposed(module)


def holds_transposed(model: Any) -> bool:
    """Whether the layers of a model hold their weights as (inputs, outputs)."""
    return any(is_transposed(module) for module in model.modules())


def check_given(label: str, targets: str | Sequence[str]) -> None:
    """Raises InputError for a word that is neither a list nor one of the two that are known."""
    if isinstance(targets, str) and targets not in (ALL_LINEAR, ARCHITECTURE):
        raise InputError(
            f"{label}.target_modules is {targets!r}; give {ALL_LINEAR!r}, {ARCHITECTURE!r} or a list of layer names."
        )


def resolve(
    model: Any, label: str, targets: str | Sequence[str], lists: Mapping[str, list[str] | str]
) -> str | list[str]:
    """The targets as peft takes them, checked against the layers of a model, which may be on the meta device.

    Args:
        model: A Hugging Face causal language model.
        label: What to call the setting in a message.
        targets: `all-linear`, `architecture` (what `lists` has for the model's type), or names of layers as they
            end in the network.
        lists: peft's targets by model type.

    Raises:
        InputError: naming what matches nothing and the dense layers there are; also for the output head.
    """
    if targets == ALL_LINEAR:
        return ALL_LINEAR
    if targets == ARCHITECTURE:
        kind = model.config.model_type
        if kind not in lists:
            raise InputError(
                f"{label}.target_modules: peft has no list for {kind}; name some of {linear_names(model)}, "
                f"or {ALL_LINEAR!r}."
            )
        targets = lists[kind]
        if isinstance(targets, str):
            return targets  # a pattern of peft's own
    check_names(model, label, targets)
    return list(targets)


def check_names(model: Any, label: str, targets: Sequence[str]) -> None:
    """Raises InputError for names that end no dense layer's name, or that name the output head."""
    names = {name for name, module in model.named_modules() if is_linear(module)}
    missing = [target for target in targets if not any(ends_with(name, target) for name in names)]
    if missing or not targets:
        raise InputError(
            f"{label}.target_modules {missing} match no layer of {type(model).__name__}; "
            f"its linear layers are {linear_names(model)}."
        )
    head = next(name for name, module in model.named_modules() if module is output_layer(model))
    if any(ends_with(head, target) for target in targets):
        raise InputError(
            f"{label}.target_modules name the output head {head!r}; adapters on it are not supported."
        )


def ends_with(name: str, target: str) -> bool:
    """Whether a layer's name is, or ends in, a target."""
    return name == target or name.endswith("." + target)


def linear_names(model: Any) -> list[str]:
    """The last parts of the names of the dense layers that can have adapters, in order."""
    return sorted({name.rsplit(".", 1)[-1] for name in linear_layers(model)})


def linear_layers(model: Any) -> dict[str, nn.Module]:
    """All dense layers but the output head, by name."""
    head = output_layer(model)
    return {
        name: module for name, module in model.named_modules() if is_linear(module) and module is not head
    }


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a dense layer, whatever the form in which it holds its weight."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    weight: Any = module.weight
    return tuple(weight.shape)
