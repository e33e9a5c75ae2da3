"""From a YAML block to a network: a hub name, a local folder, or a random network of a given shape."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from lit_posttrain.errors import InputError
from lit_posttrain.networks.attention import GROUPED
from lit_posttrain.networks.digest import base_digest
from lit_posttrain.networks.lora import LoraSettings, attach, check_targets
from lit_posttrain.networks.network import CausalNetwork
from lit_posttrain.networks.verify import verify

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KERNELS = {"sdpa": GROUPED, "eager": "eager", "flash_attention_2": "flash_attention_2"}
LAYER_TYPES = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class NetworkConfig:
    """Which causal language model, and how it is held and run.

    Args:
        path: A Hugging Face hub name or a local folder with config.json and safetensors.
        config: Instead of a path, a transformers config with `model_type`: a network with random weights.
        seed: Of the random weights, adapters included.
        revision: Branch, tag or commit of a hub name.
        dtype: Of the weights as held. Training in pure bfloat16 loses small updates; prefer float32 with the
            trainer's precision bf16-mixed.
        fp32_head: Compute the logits in float32 whatever the weights' dtype; slower and closer to exact.
        gradient_checkpointing: Keep only each layer's input and run the layer again in the backward: about a
            third more FLOPs, far less memory.
        attention: The attention kernel: sdpa, eager, or flash_attention_2 (needs a GPU and flash-attn).
        chunk_tokens: Positions whose logits exist at a time; their chunk is run again in the backward.
            0 = all at once and kept, which is faster for small vocabularies.
        lora: Train low-rank adapters instead of the network itself.
    """

    path: str | None = None
    config: dict[str, Any] | None = None
    seed: int = 0
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    fp32_head: bool = False
    gradient_checkpointing: bool = False
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    chunk_tokens: int = 1024
    lora: LoraSettings | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.config is None):
            given = "both" if self.path is not None else "neither"
            raise InputError(f"a network needs exactly one of path and config; {given} was given.")
        if self.dtype not in DTYPES:
            raise InputError(f"dtype is {self.dtype!r}; it must be one of {sorted(DTYPES)}.")
        if self.attention not in KERNELS:
            raise InputError(f"attention is {self.attention!r}; it must be one of {sorted(KERNELS)}.")
        if self.chunk_tokens < 0:
            raise InputError(f"chunk_tokens is {self.chunk_tokens}; it must be 0 (no chunks) or more.")

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "NetworkConfig":
        """The inverse of `to_dict`."""
        lora = state["lora"]
        return cls(**{**state, "lora": None if lora is None else LoraSettings(**lora)})


def build(settings: NetworkConfig) -> CausalNetwork:
    """Loads or makes the network on the CPU and checks that it does what the other rooms rely on.

    Raises:
        InputError: for a folder that is no model, an unknown model type, an architecture whose log-probs we
            would get wrong, or LoRA targets that match nothing.
    """
    config = read_config(settings)
    check_architecture(config, settings)
    if settings.lora is not None:
        check_targets(on_meta(config, settings), settings.lora)
    original = config.to_dict()
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(settings.seed)
        model = (
            random_model(config, settings)
            if settings.path is None
            else _pretrained(settings.path, config, settings)
        )
        packs = verify(CausalNetwork(model, _without_lora(settings), original))
        digest = None if settings.lora is None else base_digest(model)
        if settings.lora is not None:
            model = attach(model, settings.lora, settings.path)
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
        InputError: if there is none, or its model type is unknown to transformers.
    """
    from transformers import AutoConfig

    if settings.config is not None:
        return _given_config(settings.config)
    assert settings.path is not None
    _check_folder(Path(settings.path))
    try:
        return AutoConfig.from_pretrained(settings.path, revision=settings.revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"no network could be read from {settings.path!r}: {error}") from error


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
    unknown = set(getattr(config, "layer_types", None) or ()) - LAYER_TYPES
    if unknown:
        raise InputError(
            f"{config.model_type} has layers of type {sorted(unknown)}; {sorted(LAYER_TYPES)} are known."
        )


def random_model(config: Any, settings: NetworkConfig) -> Any:
    """A model of the config's shape with random weights."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(
        config,
        dtype=DTYPES[settings.dtype],
        attn_implementation=KERNELS[settings.attention],
        trust_remote_code=False,
    )


def on_meta(config: Any, settings: NetworkConfig) -> Any:
    """The network's shape in its dtype, without memory for its weights."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            config,
            dtype=DTYPES[settings.dtype],
            attn_implementation="eager",  # nothing is run; a config may name a kernel of the hub, which is code
            trust_remote_code=False,
        )


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
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            revision=settings.revision,
            dtype=DTYPES[settings.dtype],
            attn_implementation=KERNELS[settings.attention],
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"the network {path!r} could not be loaded: {error}") from error


def _without_lora(settings: NetworkConfig) -> NetworkConfig:
    return replace(settings, lora=None)
