"""A causal language model as the other rooms see it: log-probabilities, decoding, adapters."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lit_posttrain.batches import TokenBatch
from lit_posttrain.errors import InputError
from lit_posttrain.ledger import Ledger
from lit_posttrain.networks import masks
from lit_posttrain.networks.cache import KeyValueCache
from lit_posttrain.networks.flops import FlopCounts, Work
from lit_posttrain.networks.logprobs import logprobs_of_states, predicted
from lit_posttrain.networks.lora import adapters_off

if TYPE_CHECKING:
    from lit_posttrain.networks.load import NetworkConfig


class CausalNetwork(nn.Module):
    """Wraps a Hugging Face causal language model, with or without LoRA; made by `load.build`.

    `model` is the Hugging Face model or the `PeftModel` around it; `settings` how it was made; `original` the
    Hugging Face config as a plain dict, from before any change to it.
    """

    def __init__(self, model: Any, settings: "NetworkConfig", original: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.original = original
        self.packs = True
        self.flops = FlopCounts()

    def forward(self, batch: TokenBatch, *, temperature: float = 1.0, ledger: Ledger | None = None) -> Tensor:
        """Log-probabilities (B, T) as `logprobs.token_logprobs` says; called as a module so that hooks fire."""
        result = logprobs_of_states(
            self.hidden(batch),
            batch,
            self.head,
            temperature=temperature,
            chunk_tokens=self.settings.chunk_tokens,
        )
        if ledger is not None:
            self._book(batch, result.requires_grad, ledger)
        return result

    def hidden(self, batch: TokenBatch) -> Tensor:
        """The last hidden states (B, T, H); a sequence sees nothing of its neighbours in the row."""
        if self.hf_config._attn_implementation == "flash_attention_2":
            return self._hidden_without_padding(batch)
        if masks.is_plain(batch):
            return self._states(batch.input_ids, None, None)
        if not self.packs:
            raise InputError(f"{self.name} cannot keep packed sequences apart; turn packing off.")
        mask = masks.for_layers(masks.segment_mask(batch.segments), self.hf_config, self.dtype)
        return self._states(batch.input_ids, batch.position_ids, mask)

    def head(self, states: Tensor) -> Tensor:
        """Logits (..., V) of states (..., H), in float32 where `fp32_head` is set."""
        layer = self.causal.get_output_embeddings()
        if self.settings.fp32_head:
            with torch.autocast(states.device.type, enabled=False):
                bias = None if layer.bias is None else layer.bias.float()
                return self._scaled(functional.linear(states.float(), layer.weight.float(), bias))
        return self._scaled(layer(states))

    def decode(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor | None,
        cache: KeyValueCache,
        *,
        ledger: Ledger | None = None,
    ) -> Tensor:
        """Logits (R, V), float32, after the last of the tokens `input_ids` (R, t), which join `cache`.

        `attention_mask` is (R, 1, t, cache length after the call) bool, as `masks.left_padded_mask` makes it, or
        None where no row is padded. Call it within `decoding()`.
        """
        length, queries = cache.length + input_ids.shape[1], input_ids.shape[1]
        if attention_mask is None and queries < length:
            none = torch.zeros(len(input_ids), dtype=torch.int64, device=input_ids.device)
            attention_mask = None if self._sees_all(queries) else masks.left_padded_mask(none, length=length, queries=queries)
        mask = None if attention_mask is None else masks.for_layers(attention_mask, self.hf_config, self.dtype)
        states = self._states(input_ids, position_ids, mask, cache)
        if ledger is not None:
            self.flops.book(self, Work.decoding(len(input_ids), queries, length), ledger, backward=False)
        return self.head(states[:, -1]).float()

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Evaluation mode without gradients, as a cache needs it; the former mode comes back after the block."""
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module, training in modes:
                module.training = training
