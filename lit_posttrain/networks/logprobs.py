"""Log-probabilities of tokens: the only place where tokens are shifted by one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lit_posttrain.batches import TokenBatch
from lit_posttrain.errors import InputError
from lit_posttrain.ledger import Ledger

if TYPE_CHECKING:
    from lit_posttrain.networks.network import CausalNetwork


Readout = Callable[[Tensor, Tensor], Tensor]
"""What is read off logits (N, V), float32, given the tokens (N,) that came: (N,), or (N, K) for K values."""


def of_token(logits: Tensor, tokens: Tensor) -> Tensor:
    """The log-probability (N,) of the tokens."""
    return logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(-1)


def of_token_and_mean(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities (N, 2): of the tokens, and the mean over the whole vocabulary."""
    normaliser = logits.logsumexp(-1)
    chosen = logits.gather(-1, tokens[:, None])[:, 0]
    return torch.stack([chosen - normaliser, logits.mean(-1) - normaliser], dim=-1)


def of_token_and_entropy(logits: Tensor, tokens: Tensor) -> Tensor:
    """Values (N, 2): the log-probability of the tokens, and the entropy of the whole distribution in nats."""
    logprobs = logits.log_softmax(-1)
    chosen = logprobs.gather(-1, tokens[:, None])[:, 0]
    return torch.stack([chosen, -(logprobs.exp() * logprobs).sum(-1)], dim=-1)


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


def token_and_mean_logprobs(
    network: "CausalNetwork", batch: TokenBatch, *, ledger: Ledger | None = None
) -> tuple[Tensor, Tensor]:
    """Two tensors (B, T) as `token_logprobs` says: log p of each token, and its mean over the vocabulary."""
    both = network(batch, read=of_token_and_mean, ledger=ledger)
    return both[..., 0], both[..., 1]


def token_logprobs_and_entropy(
    network: "CausalNetwork", batch: TokenBatch, *, temperature: float = 1.0, ledger: Ledger | None = None
) -> tuple[Tensor, Tensor]:
    """Two tensors (B, T) as `token_logprobs` says: log p of each token, and the entropy of what it was drawn from.

    The entropy is that of the tempered softmax over the whole vocabulary, in nats, with its gradient.
    """
    both = network(batch, temperature=temperature, read=of_token_and_entropy, ledger=ledger)
    return both[..., 0], both[..., 1]


def token_values(network: "CausalNetwork", batch: TokenBatch, *, ledger: Ledger | None = None) -> Tensor:
    """V before each token (B, T), float32, of a network with a score head; 0 where `token_logprobs` is 0.

    The mean of the head's scores of the state that must predict the token.

    Raises:
        InputError: for a network without a score head.
    """
    wanted = predicted(batch)
    scores = network.scores(batch, functional.pad(wanted, (0, 1)), ledger=ledger)
    return _shifted(scores.mean(-1), wanted)


def values_of_states(states: Tensor, batch: TokenBatch, layer: Callable[[Tensor], Tensor]) -> Tensor:
    """V before each token (B, T), float32, from states (B, T, H) and a layer (N, H) to (N, 1)."""
    wanted = predicted(batch)
    with torch.autocast(states.device.type, enabled=False):
        return _shifted(layer(states[:, :-1][wanted].float())[:, 0], wanted)


def _shifted(values: Tensor, wanted: Tensor) -> Tensor:
    """Values (N, ...) of the states at the True places (B, T-1), in reading order, at the tokens after them."""
    beside = values.shape[1:]
    spread = values.new_zeros(*wanted.shape, *beside)
    spread = spread.masked_scatter(wanted.view(*wanted.shape, *[1] * len(beside)), values)
    return functional.pad(spread, (*[0, 0] * len(beside), 1, 0))


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
    read: Readout = of_token,
) -> Tensor:
    """Log-probabilities (B, T) from the last hidden states (B, T, H) and `head`: (N, H) to logits (N, V).

    Where `read` gives K values of each position, (B, T, K).

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
    values = _in_chunks(chosen, targets, _Reading(head, temperature, read), chunk_tokens)
    return _shifted(values, wanted)


@dataclass(frozen=True)
class _Reading:
    """From states (N, H) and the tokens that came (N,) to what is read off the logits between them."""

    head: Callable[[Tensor], Tensor]
    temperature: float
    read: Readout

    def __call__(self, states: Tensor, tokens: Tensor) -> Tensor:
        logits = self.head(states).float()
        return self.read(logits if self.temperature == 1.0 else logits / self.temperature, tokens)


def _in_chunks(states: Tensor, targets: Tensor, reading: _Reading, chunk_tokens: int) -> Tensor:
    if chunk_tokens == 0:
        return reading(states, targets)
    parts = zip(states.split(chunk_tokens), targets.split(chunk_tokens), strict=True)
    return torch.cat([_recomputed(reading, part, target) for part, target in parts])


def _recomputed(reading: _Reading, states: Tensor, targets: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return reading(states, targets)
    result = checkpoint(reading, states, targets, use_reentrant=False, preserve_rng_state=False)
    assert isinstance(result, Tensor)
    return result
