"""What a checkpoint must hold beside the weights, so that a network can be rebuilt from the file alone."""

import tempfile
from pathlib import Path
from typing import Any

from lit_posttrain.networks.load import NetworkConfig, on_meta
from lit_posttrain.networks.lora import attach
from lit_posttrain.networks.network import CausalNetwork
from lit_posttrain.text import ChatText

VERSION = 1


def network_state(network: CausalNetwork, text: ChatText) -> dict[str, Any]:
    """Plain types only, so that it loads with `weights_only`.

    Keys: `version`, `config` (Hugging Face config as it came), `network` (a `NetworkConfig`), `generation`
    (generation config, with every end token of the text), `tokenizer` (file name to its text).
    """
    return {
        "version": VERSION,
        "config": plain(network.original),
        "network": plain(network.settings.to_dict()),
        "generation": plain(_generation(network, text)),
        "tokenizer": _tokenizer_files(text),
    }


def empty_model(config: dict[str, Any], settings: NetworkConfig) -> Any:
    """The stored network and its adapter without memory for weights; for `load_state_dict(assign=True)`."""
    from transformers import AutoConfig

    model = on_meta(AutoConfig.for_model(**config), settings)
    return model if settings.lora is None else attach(model, settings.lora, settings.path)


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


def _generation(network: CausalNetwork, text: ChatText) -> dict[str, Any]:
    settings = network.causal.generation_config.to_diff_dict()
    ends = sorted(text.eos_ids)
    return {**settings, "eos_token_id": ends if len(ends) > 1 else ends[0], "pad_token_id": text.pad_id}


def _tokenizer_files(text: ChatText) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        text.save(folder)
        return {path.name: path.read_text() for path in sorted(Path(folder).iterdir()) if path.is_file()}
