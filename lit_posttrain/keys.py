"""Randomness keyed by (seed, problem, sample, position), so that a draw does not depend on its batch.

A counter-based generator: every uniform is a hash of its key, no state is kept, and a resumed or
re-ordered run draws the same tokens.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_posttrain.batches import SampleKey

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 (Steele et al. 2014) on int64, which wraps; shifts are made logical."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _MIX_1
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _MIX_2
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def digest(*parts: object) -> int:
    """A signed 64-bit hash of the parts, equal on every machine and in every process."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def row_keys(keys: Sequence[SampleKey], counts: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """One int64 key per completion, (sum of counts,): request i gives `counts[i]` rows, its samples in order."""
    roots = torch.tensor([digest(key.seed, key.uid) for key in keys], dtype=torch.int64)
    samples = [
        torch.arange(key.first_sample, key.first_sample + n) for key, n in zip(keys, counts, strict=True)
    ]
    rows = torch.repeat_interleave(roots, torch.tensor(list(counts), dtype=torch.int64))
    return _mix(rows + (torch.cat(samples) + 1) * _GOLDEN).to(device) if samples else rows.to(device)


def uniforms(rows: Tensor, position: int) -> Tensor:
    """Independent uniforms in [0, 1), float64 (R,), of the token at `position` (0 = the first drawn one)."""
    step = torch.tensor(position + 1, dtype=torch.int64, device=rows.device)
    bits = _mix(rows + step * _GOLDEN)
    return ((bits >> 11) & ((1 << 53) - 1)).double() * 2.0**-53
