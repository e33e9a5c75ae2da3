"""The keys and values of tokens already read, preallocated and written in place."""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class KeyValueLayer(CacheLayerMixin):
    """One layer's keys and values, (rows, key heads, max_tokens, head dimension), filled up to `length`."""

    is_sliding = False

    def __init__(self, max_tokens: int) -> None:
        super().__init__()
        self.max_tokens = max_tokens
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Takes room in the shape, dtype and device of the first keys and values."""
        self.keys = self._room(key_states, key_states.shape[0])
        self.values = self._room(value_states, value_states.shape[0])
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Writes the new tokens behind the old ones; returns views of all that is filled."""
        if self.keys is None or self.values is None:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        start, end = self.length, self.length + key_states.shape[2]
        if end > self.max_tokens:
            raise ValueError(f"the cache has room for {self.max_tokens} tokens and was given {end}")
        self.keys[:, :, start:end] = key_states
        self.values[:, :, start:end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def gather(self, rows: Tensor) -> None:
        """Keeps the given rows, in that order; a row may be named more than once."""
        assert self.keys is not None
        assert self.values is not None
        self.keys, self.values = self._gathered(self.keys, rows), self._gathered(self.values, rows)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many key columns the next forward of `query_length` tokens has, and the first one's index."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens filled."""
        return self.length

    def get_max_length(self) -> int:
        """Tokens there is room for."""
        return self.max_tokens

    def _gathered(self, old: Tensor, rows: Tensor) -> Tensor:
        new = self._room(old, len(rows))
        new[:, :, : self.length] = old[:, :, : self.length].index_select(0, rows)
        return new

    def _room(self, like: Tensor, rows: int) -> Tensor:
        return like.new_empty(rows, like.shape[1], self.max_tokens, like.shape[3])


class KeyValueCache(Cache):
    """A cache for decoding; all rows share the write position, so prompts are padded on the left.

    Room for all tokens is taken at the first forward, in the dtype and on the device that the network gives:
    per layer 2 x rows x key heads x max_tokens x head dimension.

    Args:
        layers: Layers of the network.
        max_tokens: Columns there is room for: prompt with its padding, and new tokens.
    """

    def __init__(self, layers: int, max_tokens: int) -> None:
        self.parts = [KeyValueLayer(max_tokens) for _ in range(layers)]
        super().__init__(layers=list(self.parts))
        self.max_tokens = max_tokens
        self.virtual = 0  # columns at the front that hold no token of any row's own

    @property
    def length(self) -> int:
        """Columns filled with tokens of the rows, padding included; the same for all rows."""
        return self.parts[0].length - self.virtual

    @property
    def rows(self) -> int:
        """Sequences held; 0 before the first forward."""
        keys = self.parts[0].keys
        return 0 if keys is None else keys.shape[0]

    def begin(self, rows: int) -> None:
        """Takes what has been read, in one row, for virtual tokens that stand before each of `rows` rows."""
        self.virtual = self.parts[0].length
        self.repeat(rows)

    def select(self, rows: Tensor) -> None:
        """Keeps only `rows` (int64 indices), in that order: drops finished sequences."""
        for layer in self.parts:
            layer.gather(rows)

    def repeat(self, n: int) -> None:
        """Turns P rows into P*n, each row n times in a run: a prompt is read once for its n completions."""
        keys = self.parts[0].keys
        assert keys is not None
        self.select(torch.arange(self.rows, device=keys.device).repeat_interleave(n))
