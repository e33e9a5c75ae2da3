"""Trained tokens before each sequence: as embeddings (prompt tuning), or as keys and values (prefix tuning)."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lit_posttrain.errors import InputError
from lit_posttrain.networks.adapters import AdapterSettings, quiet
from lit_posttrain.networks.cache import KeyValueCache
from lit_posttrain.networks.shapes import attention_shape, max_positions

INITS = ("vocabulary", "random")


@dataclass(frozen=True)
class PromptTuning(AdapterSettings):
    """Trains the embeddings of a few tokens that stand before every sequence. Sequences cannot be packed.

    Args:
        tokens: How many; each sequence has room for so many real tokens less.
        init: What they start from: the embeddings of random tokens of the vocabulary, or random numbers, which
            are far larger than embeddings are.

    Source: Lester et al. 2021, arXiv:2104.08691.
    """

    label: ClassVar[str] = "prompt tuning"
    merges: ClassVar[bool] = False
    computed: ClassVar[bool] = True

    tokens: int = 20
    init: Literal["vocabulary", "random"] = "vocabulary"

    def __post_init__(self) -> None:
        _check_count("PromptTuning", self.tokens)
        if self.init not in INITS:
            raise InputError(f"PromptTuning.init is {self.init!r}; it must be one of {list(INITS)}.")

    @property
    def description(self) -> str:
        """How many tokens."""
        return f"the embeddings of {self.tokens} virtual tokens"

    def peft_config(self, model: Any, base: str | None) -> Any:
        """A `PromptTuningConfig`."""
        check_network(model, "PromptTuning", self.tokens)
        with quiet():
            from peft import PromptTuningConfig, PromptTuningInit

        with_numbers = model.get_input_embeddings().weight.device.type != "meta"
        from_vocabulary = self.init == "vocabulary" and with_numbers
        return PromptTuningConfig(
            num_virtual_tokens=self.tokens,
            prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB if from_vocabulary else PromptTuningInit.RANDOM,
            task_type="CAUSAL_LM",
            base_model_name_or_path=base,
        )


@dataclass(frozen=True)
class PrefixTuning(AdapterSettings):
    """Trains keys and values that every layer finds before each sequence. Sequences cannot be packed.

    Gradient checkpointing is refused: transformers drops keys and values there.

    Args:
        tokens: How many; each sequence has room for so many real tokens less.
        spread: Standard deviation of the fresh keys and values. At 0 all virtual tokens would stay alike.

    Source: Li and Liang 2021, arXiv:2101.00190, without the reparametrisation.
    """

    label: ClassVar[str] = "prefix tuning"
    merges: ClassVar[bool] = False

    tokens: int = 20
    spread: float = 0.1

    def __post_init__(self) -> None:
        _check_count("PrefixTuning", self.tokens)
        if not self.spread > 0:
            raise InputError(
                f"PrefixTuning.spread is {self.spread}; it must be above 0, or all virtual tokens stay alike."
            )

    @property
    def description(self) -> str:
        """How many tokens."""
        return f"the keys and values of {self.tokens} virtual tokens in every layer"

    def peft_config(self, model: Any, base: str | None) -> Any:
        """A `PrefixTuningConfig`."""
        check_network(model, "PrefixTuning", self.tokens)
        with quiet():
            from peft import PrefixTuningConfig

        shape = attention_shape(model.config)
        return PrefixTuningConfig(
            num_virtual_tokens=self.tokens,
            num_layers=shape.layers,
            num_attention_heads=shape.key_heads,
            token_dim=shape.key_heads * shape.head_dimension,
            task_type="CAUSAL_LM",
            base_model_name_or_path=base,
        )

    @torch.no_grad()
    def start(self, model: Any) -> None:
        """peft's numbers have a standard deviation of 1."""
        model.prompt_encoder["default"].embedding.weight.mul_(self.spread)


def check_network(model: Any, label: str, tokens: int) -> None:
    """Refuses networks in which virtual tokens would be seen wrongly, or that they would fill.

    Raises:
        InputError: for a sliding window, which would count the padding between virtual and real tokens.
    """
    config = model.config
    types = getattr(config, "layer_types", None)
    slides = getattr(config, "sliding_window", None) is not None
    if slides and (not types or "sliding_attention" in types):
        raise InputError(
            f"{label} does not work with {config.model_type}, whose sliding window of {config.sliding_window} "
            "tokens would leave the virtual ones behind; use LoRA."
        )
    if tokens >= max_positions(config):
        raise InputError(
            f"{label}.tokens is {tokens}, the network has {max_positions(config)} positions in all."
        )


def states_after(model: Any, input_ids: Tensor) -> Tensor:
    """The last hidden states (B, T, H) of real tokens (B, T) behind the virtual ones of a `PeftModel`.

    Rows are padded on the right, if at all.
    """
    inner, virtual = model.get_base_model(), model.get_prompt(len(input_ids))
    if not isinstance(virtual, Tensor):
        output = inner.base_model(input_ids=input_ids, past_key_values=virtual, use_cache=True)
        return output.last_hidden_state
    embedded = inner.get_input_embeddings()(input_ids)
    both = torch.cat([virtual.to(embedded.dtype), embedded], dim=1)
    return inner.base_model(inputs_embeds=both, use_cache=False).last_hidden_state[:, virtual.shape[1] :]


def read_into(model: Any, cache: KeyValueCache, rows: int) -> None:
    """Puts the virtual tokens of a `PeftModel` into an empty cache, alike for all rows."""
    virtual = model.get_prompt(1)
    if isinstance(virtual, Tensor):
        inner = model.get_base_model()
        embedded = virtual.to(inner.get_input_embeddings().weight.dtype)
        inner.base_model(inputs_embeds=embedded, past_key_values=cache, use_cache=True)
    else:
        for part, layer in zip(cache.parts, virtual.layers, strict=True):
            part.update(layer.keys, layer.values)
    cache.begin(rows)


def _check_count(label: str, tokens: int) -> None:
    if tokens < 1:
        raise InputError(f"{label}.tokens is {tokens}; it must be at least 1.")
