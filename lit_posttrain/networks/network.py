"""A causal language model as the other rooms see it: log-probabilities, decoding, adapters."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lit_posttrain.batches import TokenBatch
from lit_posttrain.errors import InputError
from lit_posttrain.ledger import Ledger
from lit_posttrain.networks import masks
from lit_posttrain.networks.adapters import adapters_off
from lit_posttrain.networks.cache import KeyValueCache
from lit_posttrain.networks.flops import FlopCounts, decoding_work, training_work
from lit_posttrain.networks.gathering import ShardedParameters, local
from lit_posttrain.networks.logprobs import Readout, logprobs_of_states, of_token, predicted
from lit_posttrain.networks.score_head import output_layer, scores_of_states
from lit_posttrain.networks.shapes import attention_shape, max_positions
from lit_posttrain.networks.virtual_tokens import read_into, states_after

if TYPE_CHECKING:
    from lit_posttrain.networks.config import NetworkConfig


class CausalNetwork(nn.Module):
    """Wraps a Hugging Face causal language model, with or without adapters; made by `load.build`.

    `model` is the Hugging Face model or the `PeftModel` around it; `settings` how it was made; `original` the
    Hugging Face config as a plain dict, from before any change to it.
    """

    def __init__(self, model: Any, settings: "NetworkConfig", original: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.original = original
        self.packs = True
        self.base_digest: str | None = None  # of the frozen weights under adapters
        self.flops = FlopCounts()
        self.sharded: ShardedParameters | None = None  # where processes share the parameters

    def forward(
        self,
        batch: TokenBatch,
        *,
        temperature: float = 1.0,
        read: Readout = of_token,
        at: Tensor | None = None,
        beside: Callable[[Tensor, TokenBatch], Tensor] | None = None,
        ledger: Ledger | None = None,
    ) -> Any:
        """Log-probabilities (B, T) as `token_logprobs` says, or with `at` what `scores` says.

        With `beside`, which reads the last hidden states (B, T, H) too, a pair: the log-probabilities, and what it
        gives. Called as a module so that hooks fire.
        """
        if at is not None:
            return self._scores(batch, at, ledger)
        states = self.hidden(batch)
        result = logprobs_of_states(
            states,
            batch,
            self.head,
            temperature=temperature,
            chunk_tokens=self.settings.chunk_tokens,
            read=read,
        )
        if ledger is not None:
            self._book(batch, int(predicted(batch).sum()), result.requires_grad, ledger)
        return result if beside is None else (result, beside(states, batch))

    def scores(self, batch: TokenBatch, at: Tensor, *, ledger: Ledger | None = None) -> Tensor:
        """Scores (N, K), float32, after the tokens at the N True places of `at` (B, T), in reading order.

        The forward, and the backward to come where the result requires a gradient, are booked at once.

        Raises:
            InputError: for a network without a score head.
        """
        return self(batch, at=at, ledger=ledger)

    def hidden(self, batch: TokenBatch) -> Tensor:
        """The last hidden states (B, T, H); a sequence sees nothing of its neighbours in the row."""
        if self.hf_config._attn_implementation == "flash_attention_2":
            return self._hidden_without_padding(batch)
        if masks.is_plain(batch):
            return self.states(batch.input_ids, None, None)
        if not self.packs:
            raise InputError(f"{self.name} cannot keep packed sequences apart; turn packing off.")
        mask = masks.for_layers(masks.segment_mask(batch.segments), self.hf_config, self.compute_dtype)
        return self.states(batch.input_ids, batch.position_ids, mask)

    def states(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        mask: Any = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """The last hidden states (B, T, H) as the architecture gives them, with a mask in its own form."""
        length = input_ids.shape[1] + (0 if cache is None else cache.length)
        if length > self.max_positions:
            raise InputError(f"{self.name} has {self.max_positions} positions and was given {length} tokens.")
        if cache is None and self.virtual_tokens:
            return states_after(self.model, input_ids)
        output = self.causal.base_model(
            input_ids=input_ids,
            position_ids=position_ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state

    def head(self, states: Tensor) -> Tensor:
        """Logits (..., V) of states (..., H), in float32 where `fp32_head` is set.

        Raises:
            InputError: for a reward model, which has none.
        """
        if self.settings.head is not None:
            raise InputError(
                f"{self.name} has a score head and no logits: it gives scores and writes no text."
            )
        layer = self.causal.get_output_embeddings()
        if self.settings.fp32_head:
            with torch.autocast(states.device.type, enabled=False):
                bias = None if layer.bias is None else local(layer.bias).float()
                return self._scaled(functional.linear(states.float(), local(layer.weight).float(), bias))
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

        `attention_mask` is (R, 1, t, cache length after the call) bool, as `masks.left_padded_mask` makes it,
        or None where no row is padded. Call it within `decoding()`.
        """
        if self.training:
            raise RuntimeError("decode needs evaluation mode; call it within network.decoding()")
        if cache.rows == 0 and self.virtual_tokens:
            self._read_virtual(cache, len(input_ids), ledger)
        queries, length = input_ids.shape[1], cache.length + input_ids.shape[1]
        mask = self._decoding_mask(attention_mask, input_ids, length, cache.virtual)
        states = self.states(input_ids, position_ids + cache.virtual, mask, cache)
        if ledger is not None:
            work = decoding_work(len(input_ids), queries, length + cache.virtual)
            self.flops.book(self, work, ledger, backward=False)
        return self.head(states[:, -1]).float()

    def new_cache(self, max_tokens: int) -> KeyValueCache:
        """An empty cache with room for `max_tokens` columns, and virtual tokens before them."""
        return KeyValueCache(self.layers, max_tokens + self.virtual_tokens)

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Evaluation mode without gradients, as a cache needs it; the old mode comes back after the block.

        Where processes share the parameters they are gathered once, at the start: all processes must enter the
        block, and each may leave it by itself.
        """
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            whole = nullcontext() if self.sharded is None else self.sharded.gathered(self)
            with torch.no_grad(), whole:
                yield
        finally:
            for module, training in modes:
                module.training = training

    @contextmanager
    def adapter_off(self) -> Iterator[None]:
        """Runs the block with the adapters off: the network before training, for reference log-probs.

        Raises:
            InputError: without adapters, where the base network itself is trained.
        """
        if self.settings.adaptation is None:
            raise InputError("this network has no adapter to turn off; set lora, or load a second network.")
        with adapters_off(self.model):
            yield

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Those that require a gradient: the adapters where there are any, everything otherwise."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    @property
    def causal(self) -> Any:
        """The Hugging Face causal language model, adapters (if any) inside its layers."""
        return self.model if self.settings.adaptation is None else self.model.get_base_model()

    @property
    def hf_config(self) -> Any:
        """The Hugging Face config."""
        return self.causal.config

    @property
    def name(self) -> str:
        """The architecture."""
        return type(self.causal).__name__

    @property
    def layers(self) -> int:
        """Layers with attention."""
        return attention_shape(self.hf_config).layers

    @property
    def max_positions(self) -> int:
        """The longest sequence, in tokens, that the network takes beside virtual ones."""
        return max_positions(self.hf_config) - self.virtual_tokens

    @property
    def virtual_tokens(self) -> int:
        """Trained tokens that stand before each sequence now; 0 with the adapters off."""
        adapter = self.settings.adaptation
        return 0 if adapter is None or self.model._adapters_disabled else adapter.tokens

    @property
    def seen_tokens(self) -> int:
        """Those of the virtual tokens that the layers find as keys and values, and do not run on."""
        adapter = self.settings.adaptation
        return 0 if adapter is None or adapter.computed else self.virtual_tokens

    @property
    def vocabulary(self) -> int:
        """V, rows of the embedding; token ids are below it."""
        return self.causal.get_input_embeddings().num_embeddings

    @property
    def dtype(self) -> torch.dtype:
        """That of the weights as held."""
        return self.causal.dtype if self.sharded is None else self.sharded.dtype

    @property
    def compute_dtype(self) -> torch.dtype:
        """That of the weights as they are run."""
        return self.causal.dtype if self.sharded is None else self.sharded.compute_dtype

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self.causal.device if self.sharded is None else self.sharded.device

    @property
    def collective_decoding(self) -> bool:
        """Whether processes share each layer, so that all of them must make the same calls of `decode`."""
        return self.sharded is not None and self.sharded.tensor_parallel > 1

    def _read_virtual(self, cache: KeyValueCache, rows: int, ledger: Ledger | None) -> None:
        """Reads the virtual tokens once, for all rows of a cache that is empty yet."""
        read_into(self.model, cache, rows)
        if ledger is not None and not self.seen_tokens:
            tokens = self.virtual_tokens
            work = replace(decoding_work(1, tokens, tokens), head_positions=0)
            self.flops.book(self, work, ledger, backward=False)

    def _decoding_mask(self, mask: Tensor | None, input_ids: Tensor, length: int, virtual: int) -> Any:
        """The mask as the layers take it; every token also sees the virtual ones before all others."""
        rows, queries = input_ids.shape
        if mask is None and queries == length and not virtual:
            return None
        if mask is None:
            none = torch.zeros(rows, dtype=torch.int64, device=input_ids.device)
            mask = masks.left_padded_mask(none, length=length, queries=queries)
        mask = functional.pad(mask, (virtual, 0), value=True) if virtual else mask
        return masks.for_layers(mask, self.hf_config, self.compute_dtype)

    def _hidden_without_padding(self, batch: TokenBatch) -> Tensor:
        """All real tokens as one row; the flash kernel finds sequences by positions that start again at 0."""
        real = batch.segments > 0
        states = self.states(batch.input_ids[real][None], batch.position_ids[real][None], None)
        return states.new_zeros(*real.shape, states.shape[-1]).masked_scatter(real[:, :, None], states[0])

    def _scaled(self, logits: Tensor) -> Tensor:
        config = self.hf_config
        if getattr(config, "logit_scale", None) is not None:
            logits = logits * config.logit_scale
        if getattr(config, "logits_scaling", None) is not None:
            logits = logits / config.logits_scaling
        cap = getattr(config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def _scores(self, batch: TokenBatch, at: Tensor, ledger: Ledger | None) -> Tensor:
        if self.settings.head is None:
            raise InputError(
                f"{self.name} has no score head; set network.head, or give an exported reward model."
            )
        result = scores_of_states(self.hidden(batch), at, output_layer(self.causal))
        if ledger is not None:
            self._book(batch, len(result), result.requires_grad, ledger)
        return result

    def _book(self, batch: TokenBatch, head_positions: int, backward: bool, ledger: Ledger) -> None:
        dense = self.hf_config._attn_implementation != "flash_attention_2"
        work = training_work(
            batch,
            head_positions=head_positions,
            dense=dense,
            computed=self.virtual_tokens - self.seen_tokens,
            seen=self.seen_tokens,
        )
        self.flops.book(self, work, ledger, backward=backward)
