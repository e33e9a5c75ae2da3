"""From logits to a drawn token and its log-probability under the distribution it was drawn from."""

import torch
from torch import Tensor

from lit_posttrain.batches import Sampling

ROWS_AT_ONCE = 64
"""The cumulative distribution is float64 and as wide as the vocabulary: it is made for this many rows at a time."""


def sampling_logprobs(logits: Tensor, sampling: Sampling) -> Tensor:
    """Log-probs (R, V) float32 of the sampling distribution: temperature, then top-k, then top-p.

    For greedy decoding (temperature 0) they are those of the untempered distribution.
    """
    logits = logits.float()
    if sampling.temperature > 0:
        logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        kept = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < kept, -torch.inf)
    logprobs = logits.log_softmax(dim=-1)
    if sampling.top_p < 1:
        logprobs = _nucleus(logprobs, sampling.top_p).log_softmax(dim=-1)
    return logprobs


def _nucleus(logprobs: Tensor, top_p: float) -> Tensor:
    """Keeps the smallest set of most probable tokens whose probability reaches `top_p`."""
    ordered, index = logprobs.sort(dim=-1, descending=True)
    before = ordered.exp().cumsum(dim=-1) - ordered.exp()
    dropped = torch.zeros_like(logprobs, dtype=torch.bool).scatter(-1, index, before >= top_p)
    return logprobs.masked_fill(dropped, -torch.inf)


def choose(logprobs: Tensor, uniform: Tensor) -> Tensor:
    """Token ids (R,) at the quantile `uniform` (R,) float64 in [0, 1) of each row's distribution.

    Inverse-transform sampling: one uniform a token, so that a draw depends on its key and its row alone. A token
    of probability 0 is never chosen.
    """
    chosen = []
    for rows, u in zip(logprobs.split(ROWS_AT_ONCE), uniform.split(ROWS_AT_ONCE), strict=True):
        cumulative = rows.double().exp().cumsum(dim=-1)
        target = u[:, None] * cumulative[:, -1:]
        chosen.append(torch.searchsorted(cumulative, target, right=True).squeeze(-1))
    return torch.cat(chosen).clamp(max=logprobs.shape[-1] - 1)
