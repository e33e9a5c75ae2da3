"""What a YAML block says of a network: which one, how it is held and run, and what of it is trained."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch

from lit_posttrain.errors import InputError
from lit_posttrain.networks.adapters import AdapterSettings
from lit_posttrain.networks.attention import GROUPED
from lit_posttrain.networks.lora import LoraSettings
from lit_posttrain.networks.multiplicative import IA3, OFT
from lit_posttrain.networks.quantised import Quantisation
from lit_posttrain.networks.score_head import ScoreHead
from lit_posttrain.networks.virtual_tokens import PrefixTuning, PromptTuning

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KERNELS = {"sdpa": GROUPED, "eager": "eager", "flash_attention_2": "flash_attention_2"}
ADAPTERS = {kind.__name__: kind for kind in (LoraSettings, IA3, OFT, PromptTuning, PrefixTuning)}


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
        adapter: Train adapters of another kind instead, for example IA3 or OFT.
        quantisation: Hold the frozen weights in 4 bits; needs lora or adapter.
        head: Scores in place of logits: a reward model. The language model's output layer is not held.
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
    adapter: AdapterSettings | None = None
    quantisation: Quantisation | None = None
    head: ScoreHead | None = None

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
        self._check_adaptation()

    def _check_adaptation(self) -> None:
        """Refuses what cannot be trained together."""
        adapter = self.adaptation
        if self.lora is not None and self.adapter is not None:
            raise InputError("network.lora and network.adapter are both given; lora is one kind of adapter.")
        if self.quantisation is not None and adapter is None:
            raise InputError(
                "4-bit weights cannot be trained; add lora or adapter, or leave quantisation away."
            )
        if adapter is None or not adapter.tokens:
            return
        if self.attention == "flash_attention_2":
            raise InputError(
                f"{adapter.label} needs whole rows, which flash attention does not get; set sdpa."
            )
        if self.gradient_checkpointing and not adapter.computed:
            raise InputError(
                f"{adapter.label} does not work with gradient_checkpointing: transformers drops the trained keys and "
                "values in a layer that is run again. Turn it off, or use PromptTuning."
            )

    @property
    def adaptation(self) -> AdapterSettings | None:
        """The adapters that are trained instead of the network itself, however they were given."""
        return self.adapter if self.lora is None else self.lora

    @property
    def products_dtype(self) -> torch.dtype:
        """In which the linear layers compute, without autocast."""
        given = None if self.quantisation is None else self.quantisation.compute_dtype
        return DTYPES[given or self.dtype]

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for a checkpoint."""
        return {**asdict(self), "adapter": None if self.adapter is None else self.adapter.to_dict()}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "NetworkConfig":
        """The inverse of `to_dict`; takes what was stored before a setting was there.

        Raises:
            InputError: for a kind of adapter that is unknown here.
        """
        lora, adapter, quantisation, head = map(state.get, ("lora", "adapter", "quantisation", "head"))
        parts = {
            "lora": None if lora is None else LoraSettings(**lora),
            "adapter": None if adapter is None else _stored_adapter(**adapter),
            "quantisation": None if quantisation is None else Quantisation(**quantisation),
            "head": None if head is None else ScoreHead(**head),
        }
        return cls(**{**state, **parts})


def bare(settings: NetworkConfig) -> NetworkConfig:
    """The same network without adapters, in its own dtype."""
    return replace(settings, lora=None, adapter=None, quantisation=None)


def _stored_adapter(kind: str, **settings: Any) -> AdapterSettings:
    if kind not in ADAPTERS:
        raise InputError(f"{kind!r} is stored as a kind of adapter; known are {sorted(ADAPTERS)}.")
    return ADAPTERS[kind](**settings)
