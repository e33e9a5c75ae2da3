"""From a YAML block to a network: a hub name, a local folder, or a random network of a given shape."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from lit_posttrain.errors import InputError
from lit_posttrain.networks.adapters import attach
from lit_posttrain.networks.config import DTYPES, KERNELS, NetworkConfig, bare
from lit_posttrain.networks.digest import base_digest
from lit_posttrain.networks.network import CausalNetwork
from lit_posttrain.networks.quantised import check_shapes, quantise
from lit_posttrain.networks.score_head import (
    ScoreHead,
    check_class,
    check_loaded,
    declare,
    draw,
    quiet_report,
    stored_heads,
)
from lit_posttrain.networks.verify import verify

LAYER_TYPES = {"full_attention", "sliding_attention"}


def build(settings: NetworkConfig) -> CausalNetwork:
    """Loads or makes the network on the CPU and checks that it does what the other rooms rely on.

    Raises:
        InputError: for a folder that is no model, an unknown model type, an architecture whose log-probs we
            would get wrong, or adapters that do not fit it.
    """
    config = read_config(settings)
    check_architecture(config, settings)
    adapter = settings.adaptation
    if adapter is not None:
        _check_fit(on_meta(config, settings), settings)
    original = config.to_dict()
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(settings.seed)
        model = (
            random_model(config, settings)
            if settings.path is None
            else _pretrained(settings.path, config, settings)
        )
        if settings.head is not None and settings.path is None:
            draw(model, settings.head)
        if settings.quantisation is not None:
            quantise(model, settings.quantisation, settings.products_dtype)
        packs = verify(CausalNetwork(model, bare(settings), original), settings.products_dtype)
        digest = None if adapter is None else base_digest(model)
        if adapter is not None:
            model = attach(model, adapter, settings.path)
            packs = packs and not adapter.tokens
    return assemble(model, settings, original, packs=packs, digest=digest)


def assemble(
    model: Any, settings: NetworkConfig, original: dict[str, Any], *, packs: bool, digest: str | None
) -> CausalNetwork:
    """The network around a model that has its adapters, ready to be trained."""
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    network = CausalNetwork(model, settings, original)
    network.packs, network.base_digest = packs, digest
    return network.train()


def read_config(settings: NetworkConfig) -> Any:
    """The Hugging Face config, without weights.

    Raises:
        InputError: if there is none, its model type is unknown to transformers, or it has another head than asked.
    """
    if settings.config is not None:
        config = _given_config(settings.config)
    else:
        assert settings.path is not None
        config = _stored_config(settings.path, settings.revision)
    declare(config, settings.head, settings.path or "network.config")
    return config


def stored_head(path: str, revision: str | None = None) -> ScoreHead:
    """The head that a reward model's folder brings.

    Raises:
        InputError: for a folder without one.
    """
    config = _stored_config(path, revision)
    heads = stored_heads(config)
    if heads is None:
        raise InputError(
            f"{path} has no reward head: its config names {getattr(config, 'architectures', None)}, expected a "
            "*ForSequenceClassification; give the export of a reward model's checkpoint."
        )
    return ScoreHead(heads)


def check_architecture(config: Any, settings: NetworkConfig) -> None:
    """Refuses what would be computed wrongly.

    Raises:
        InputError: saying which setting to change.
    """
    if getattr(config, "attn_logit_softcapping", None) is not None and settings.attention == "sdpa":
        raise InputError(
            f"{config.model_type} caps its attention scores, which sdpa leaves out silently; "
            "set attention: eager."
        )
    if getattr(config, "quantization_config", None) is not None:
        raise InputError(
            f"the weights of {settings.path} are stored quantised, and cannot be trained so; give the network that "
            "they were made from, and set quantisation to hold it in 4 bits."
        )
    unknown = set(getattr(config, "layer_types", None) or ()) - LAYER_TYPES
    if unknown:
        raise InputError(
            f"{config.model_type} has layers of type {sorted(unknown)}; {sorted(LAYER_TYPES)} are known."
        )


def random_model(config: Any, settings: NetworkConfig) -> Any:
    """A model of the config's shape with random weights."""
    return _from_config(config, settings, KERNELS[settings.attention])


def on_meta(config: Any, settings: NetworkConfig) -> Any:
    """The network's shape in its dtype, without memory for its weights."""
    with torch.device("meta"):
        # nothing is run; a config may name a kernel of the hub, which is code
        return _from_config(config, settings, "eager")


def _from_config(config: Any, settings: NetworkConfig, attention: str) -> Any:
    try:
        model = _auto_class(settings).from_config(
            config,
            dtype=DTYPES[settings.dtype],
            attn_implementation=attention,
            trust_remote_code=False,
        )
    except ValueError as error:
        raise InputError(f"no network of type {config.model_type} can be made: {error}") from error
    if settings.head is not None:
        check_class(model)
    return model


def _auto_class(settings: NetworkConfig) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    return AutoModelForCausalLM if settings.head is None else AutoModelForSequenceClassification


def _stored_config(path: str, revision: str | None) -> Any:
    from transformers import AutoConfig

    _check_folder(Path(path))
    try:
        return AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"no network could be read from {path!r}: {error}") from error


def _given_config(given: dict[str, Any]) -> Any:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = given.get("model_type")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise InputError(
            f"config.model_type is {kind!r}; give one that transformers knows as a causal language model, "
            "for example llama, qwen2, gpt2."
        )
    try:
        return AutoConfig.for_model(**given)
    except (TypeError, ValueError) as error:
        raise InputError(f"the config of the {kind} network cannot be used: {error}") from error


def _check_folder(folder: Path) -> None:
    looks_local = folder.is_absolute() or str(folder).startswith((".", "~")) or folder.exists()
    if not looks_local:
        return
    if not folder.is_dir():
        raise InputError(
            f"{folder} is no folder; give a folder with config.json and safetensors, or a hub name."
        )
    missing = [] if (folder / "config.json").exists() else ["config.json"]
    if not any(folder.glob("*.safetensors")):
        missing.append("weights as *.safetensors")
    if missing:
        raise InputError(f"{folder} is not a model: {' and '.join(missing)} missing.")


def _pretrained(path: str, config: Any, settings: NetworkConfig) -> Any:
    stored = stored_heads(config)  # of the folder: transformers may change the config
    try:
        with nullcontext() if settings.head is None else quiet_report():
            model, told = _auto_class(settings).from_pretrained(
                path,
                config=config,
                revision=settings.revision,
                dtype=DTYPES[settings.dtype],
                attn_implementation=KERNELS[settings.attention],
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"the network {path!r} could not be loaded: {error}") from error
    if settings.head is not None:
        check_loaded(model, set(told["missing_keys"]), stored, path)
        if stored is None:
            draw(model, settings.head)
    return model


def _check_fit(model: Any, settings: NetworkConfig) -> None:
    """Raises InputError for adapters or 4 bits that a network cannot have, before any weight is loaded."""
    assert settings.adaptation is not None
    settings.adaptation.peft_config(model, None)
    if settings.quantisation is not None:
        check_shapes(model)
