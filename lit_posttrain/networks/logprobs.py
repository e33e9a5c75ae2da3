"""Log-probabilities of tokens: the only place where tokens are shifted by one."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lit_posttrain.batches import TokenBatch
from lit_posttrain.errors import InputError
from lit_posttrain.ledger import Ledger

if TYPE_CHECKING:
    from lit_posttrain.networks.network import CausalNetwork


def token_logprobs(
    network: "CausalNetwork", batch: TokenBatch, *, temperature: float = 1.0, ledger: Ledger | None = None
) -> Tensor:
    """Log-probability (B, T), float32, nats, of each token given those before it in its segment.

    Exactly 0 outside `batch.mask` and at the first token of a segment. Logits are divided by `temperature`.
    The forward, and the backward to come where the result requires a gradient, are booked at once.

    Raises:
        InputError: for a temperature that is not positive, or a batch that the network cannot take.
    """
    return network(batch, temperature=temperature, ledger=ledger)


def predicted(batch: TokenBatch) -> Tensor:
    """(B, T-1) bool: entry t says whether the state of token t must predict token t+1."""
    segments = batch.segments
    return batch.mask[:, 1:] & (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)


def logprobs_of_states(
    states: Tensor,
    batch: TokenBatch,
    head: Callable[[Tensor], Tensor],
    *,
    temperature: float,
    chunk_tokens: int,
) -> Tensor:
    """Log-probabilities (B, T) from the last hidden states (B, T, H) and `head`: (N, H) to logits (N, V).

    The head is applied only where the next token is under the mask, `chunk_tokens` positions at a time, and
    each chunk again in the backward, so that logits exist for one chunk only; 0 = all at once and kept.
    """
    if not temperature > 0:
        raise InputError(
            f"the log-probabilities at temperature {temperature} are not defined; it must be above 0."
        )
    wanted = predicted(batch)
    rows, columns = wanted.nonzero(as_tuple=True)
    chosen = states.flatten(0, 1).index_select(0, rows * states.shape[1] + columns)
    targets = batch.input_ids[rows, columns + 1]
    values = _in_chunks(chosen, targets, head, temperature, chunk_tokens)
    shifted = values.new_zeros(wanted.shape).masked_scatter(wanted, values)
    return functional.pad(shifted, (1, 0))


def _in_chunks(
    states: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor], temperature: float, chunk_tokens: int
) -> Tensor:
    if chunk_tokens == 0:
        return _logprobs(states, targets, head, temperature)
    parts = zip(states.split(chunk_tokens), targets.split(chunk_tokens), strict=True)
    return torch.cat([_recomputed(part, target, head, temperature) for part, target in parts])


def _recomputed(*arguments: Any) -> Tensor:
    if not torch.is_grad_enabled():
        return _logprobs(*arguments)
    result = checkpoint(_logprobs, *arguments, use_reentrant=False, preserve_rng_state=False)
    assert isinstance(result, Tensor)
    return result


def _logprobs(
    states: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor], temperature: float
) -> Tensor:
    logits = head(states).float()
    if temperature != 1.0:
        logits = logits / temperature
    return logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(-1)
