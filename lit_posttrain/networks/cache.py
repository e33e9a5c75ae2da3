"""The keys and values of tokens already read, preallocated and written in place."""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class KeyValueLayer(CacheLayerMixin):
    """One layer's keys and values, (rows, key heads, max_tokens, head dimension); the first `length` are filled."""

    is_sliding = False

    def __init__(self, max_tokens: int) -> None:
        super().__init__()
        self.max_tokens = max_tokens
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocates room in the shape, dtype and device of the first keys and values."""
        self.keys = self._room(key_states, key_states.shape[0])
        self.values = self._room(value_states, value_states.shape[0])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes the new tokens behind the old ones; returns views of all that is filled."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self.length, self.length + key_states.shape[2]
        if end > self.max_tokens:
            raise ValueError(f"the cache holds {self.max_tokens} tokens and was given {end}")
        self._keys[:, :, start:end] = key_states
        self._values[:, :, start:end] = value_states
        self.length = end
        return self._keys[:, :, :end], self._values[:, :, :end]

    def gather(self, rows: Tensor) -> None:
        """Keeps the given rows, in that order; a row may be named more than once."""
        if not self.is_initialized:
            return
        for name in ("keys", "values"):
            old: Tensor = getattr(self, name)
            new = self._room(old, len(rows))
            torch.index_select(old[:, :, : self.length], 0, rows, out=new[:, :, : self.length])
            setattr(self, name, new)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many key columns the next forward of `query_length` tokens has, and the first one's index."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens filled."""
        return self.length

    def get_max_length(self) -> int:
        """Tokens there is room for."""
        return self.max_tokens

    @property
    def _keys(self) -> Tensor:
        assert self.keys is not None
        return self.keys

    @property
    def _values(self) -> Tensor:
        assert self.values is not None
        return self.values

    def _room(self, like: Tensor, rows: int) -> Tensor:
        return like.new_empty(rows, like.shape[1], self.max_tokens, like.shape[3])


class KeyValueCache(Cache):
    """A cache for decoding; all rows share the write position, so prompts are padded on the left.

    Memory is taken at the first forward, in the dtype and on the device that the network gives: per layer
    2 x rows x key heads x max_tokens x head dimension.

    Args:
        layers: Layers of the network.
        max_tokens: Columns there is room for: prompt with padding, and new tokens.
    """

    def __init__(self, layers: int, max_tokens: int) -> None:
        super().__init__(layers=[KeyValueLayer(max_tokens) for _ in range(layers)])
        self.max_tokens = max_tokens

    @property
    def length(self) -> int:
        """Columns filled, the same for all rows."""
        return self.layers[0].get_seq_length()

    @property
    def rows(self) -> int:
        """Rows held; 0 before the first forward."""
        keys = self.layers[0].keys
        return 0 if keys is None else keys.shape[0]

    def select(self, rows: Tensor) -> None:
        """Keeps only `rows` (int64 indices), in that order: drops finished sequences."""
        for layer in self.layers:
            layer.gather(rows)

    def repeat(self, n: int) -> None:
        """Turns P rows into P*n, each row n times in a run: a prompt is read once for its n completions."""
        rows = torch.arange(self.rows, device=self.layers[0].keys.device)  # type: ignore[union-attr]
        self.select(rows.repeat_interleave(n))
