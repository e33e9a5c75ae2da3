"""What a checkpoint must hold beside the weights, so that a network can be rebuilt from the file alone."""

import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from lit_posttrain.errors import InputError
from lit_posttrain.networks.adapters import attach
from lit_posttrain.networks.config import NetworkConfig
from lit_posttrain.networks.load import on_meta
from lit_posttrain.networks.network import CausalNetwork
from lit_posttrain.text import ChatText

VERSION = 1
PACKAGES = ("lit-posttrain", "torch", "lightning", "transformers", "peft")


def network_state(network: CausalNetwork, text: ChatText) -> dict[str, Any]:
    """Plain types only, so that it loads with `weights_only`.

    Keys: `version`, `config` (Hugging Face config as it came), `network` (a `NetworkConfig`), `generation`
    (generation config, with every end token of the text), `tokenizer` (file name to its text), `base_digest`
    (names the frozen weights under adapters, which are not stored; None otherwise), `base_is_folder`, `versions`.
    """
    return {
        "version": VERSION,
        "config": plain(network.original),
        "network": plain(network.settings.to_dict()),
        "generation": plain(_generation(network, text)),
        "tokenizer": _tokenizer_files(text),
        "base_digest": network.base_digest,
        "base_is_folder": network.settings.path is not None and Path(network.settings.path).is_dir(),
        "versions": {name: version(name) for name in _packages(network.settings)},
    }


def trained_names(module: nn.Module) -> list[str]:
    """The names of the parameters that are trained, in the order of the optimiser."""
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad]


def stored_names(network: CausalNetwork) -> list[str]:
    """The weights that a checkpoint holds: with adapters only those that are trained."""
    return list(network.state_dict()) if network.settings.adaptation is None else trained_names(network)


def check_stored(network: CausalNetwork, checkpoint: Mapping[str, Any], *, prefix: str) -> None:
    """Compares the weights of a checkpoint with the network that is to take them.

    Args:
        network: The network as the config makes it.
        checkpoint: With `state_dict`, whose entries may be on the meta device, and `lit_posttrain`.
        prefix: Of the network's weights in the checkpoint.

    Raises:
        InputError: naming what is missing, unknown or of another shape, or if adapters belong to another base.
    """
    if not isinstance(checkpoint.get("lit_posttrain"), dict) or "state_dict" not in checkpoint:
        raise InputError("the checkpoint holds no policy of ours; give a checkpoint of a fit")
    have = {
        k.removeprefix(prefix): v.shape for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)
    }
    own = network.state_dict()
    want = {name: own[name].shape for name in stored_names(network)}
    missing, unknown = sorted(want.keys() - have.keys()), sorted(have.keys() - want.keys())
    other = sorted(name for name in want.keys() & have.keys() if want[name] != have[name])
    if missing or unknown or other:
        raise InputError(
            f"the checkpoint holds another network: {len(missing)} parameters missing {missing[:3]}, "
            f"{len(unknown)} unknown {unknown[:3]}, {len(other)} of another shape {other[:3]}; "
            "use the config that it was trained with"
        )
    check_base(network.base_digest, checkpoint["lit_posttrain"].get("base_digest"))


def check_base(found: str | None, expected: str | None) -> None:
    """Raises InputError if adapters were trained on another base than the one that is found."""
    if found != expected:
        raise InputError(
            f"the adapters were trained on a base network with digest {expected}, the base given has {found}; "
            "give the same base (network.path, or network.config with the same seed)"
        )


def named_optimizer_state(state: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """An optimiser's `state_dict` with parameters by name instead of number.

    That is the form of `torch.distributed.checkpoint.state_dict`, which any number of processes can load.

    Args:
        state: What `optimizer.state_dict()` gives.
        names: Of all its parameters, in order.
    """
    return {
        "state": {names[number]: entry for number, entry in state["state"].items()},
        "param_groups": [
            {**group, "params": [names[number] for number in group["params"]]}
            for group in state["param_groups"]
        ],
    }


def numbered_optimizer_state(state: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The inverse of `named_optimizer_state`, whatever the order in which the parameters were stored.

    Raises:
        InputError: for parameters that are not among `names`.
    """
    numbers = {name: number for number, name in enumerate(names)}
    stored = {name for group in state["param_groups"] for name in group["params"]}
    if stored != set(numbers):
        strange = sorted(stored ^ set(numbers))
        raise InputError(
            f"the checkpoint's optimiser trained other parameters: {len(strange)} differ, such as {strange[:3]}; "
            "use the config that it was trained with"
        )
    return {
        "state": {numbers[name]: entry for name, entry in state["state"].items()},
        "param_groups": [
            {**group, "params": sorted(numbers[name] for name in group["params"])}  # matched by position
            for group in state["param_groups"]
        ],
    }


def empty_model(config: dict[str, Any], settings: NetworkConfig) -> Any:
    """The stored network and its adapter without memory for weights; for `load_state_dict(assign=True)`.

    Weights that are quantised in training have their plain shape here.
    """
    from transformers import AutoConfig

    model, adapter = on_meta(AutoConfig.for_model(**config), settings), settings.adaptation
    return model if adapter is None else attach(model, adapter, settings.path)


def plain(value: Any) -> Any:
    """A copy in dicts, lists, strings, numbers, booleans and None.

    Raises:
        TypeError: for anything else that has no name in a config.
    """
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value).__module__ == "torch":  # a dtype
        return str(value).removeprefix("torch.")
    raise TypeError(f"{value!r} of type {type(value).__name__} cannot be stored in a checkpoint")


def _packages(settings: NetworkConfig) -> tuple[str, ...]:
    return PACKAGES if settings.quantisation is None else (*PACKAGES, "bitsandbytes")


def _generation(network: CausalNetwork, text: ChatText) -> dict[str, Any]:
    settings = {} if network.settings.head else network.causal.generation_config.to_diff_dict()
    ends = [text.end_id, *sorted(text.eos_ids - {text.end_id})]  # the first is what training writes
    return {**settings, "eos_token_id": ends if len(ends) > 1 else ends[0], "pad_token_id": text.pad_id}


def _tokenizer_files(text: ChatText) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        text.save(folder)
        return {
            path.name: path.read_bytes().decode() for path in sorted(Path(folder).iterdir()) if path.is_file()
        }
