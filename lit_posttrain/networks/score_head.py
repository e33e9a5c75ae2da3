"""A reward model's head: linear scores of the state after a token, in place of the logits of a language model."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lit_posttrain.batches import TokenBatch
from lit_posttrain.errors import InputError
from lit_posttrain.keys import digest
from lit_posttrain.networks.gathering import local

NAME = "score"
"""What transformers calls the layer in its classifiers on causal language models."""


@dataclass(frozen=True)
class ScoreHead:
    """A linear layer without bias from the last hidden state (H) to scores (K); trained, also beside adapters.

    A folder of a `*ForSequenceClassification` brings its own, which must have as many scores; on that of a causal
    language model the layer starts from random numbers. The network has no logits then, and writes no text.

    Args:
        heads: K, the members of an ensemble that share the network; each starts from numbers of its own.
        seed: Of the fresh numbers.
        std: Their standard deviation; by default 1/sqrt(H + 1).
    """

    heads: int = 1
    seed: int = 0
    std: float | None = None

    def __post_init__(self) -> None:
        if self.heads < 1:
            raise InputError(f"head.heads is {self.heads}; a reward model needs at least 1.")
        if self.std is not None and not self.std >= 0:
            raise InputError(f"head.std is {self.std}; a standard deviation is not negative.")


def last_tokens(batch: TokenBatch) -> Tensor:
    """(B, T) bool: the last token of each sequence, where its score is read."""
    following = functional.pad(batch.segments[:, 1:], (0, 1))
    return (batch.segments > 0) & (batch.segments != following)


def scores_of_states(states: Tensor, at: Tensor, layer: Any) -> Tensor:
    """Scores (N, K), float32, of the states (B, T, H) at the N True places of `at` (B, T), in reading order.

    Computed in float32 whatever the dtype of weights and autocast.
    """
    chosen = states[at]
    with torch.autocast(states.device.type, enabled=False):
        return functional.linear(chosen.float(), local(layer.weight).float())


def stored_heads(config: Any) -> int | None:
    """The scores that a folder's network gives, by its Hugging Face config; None if it is no classifier."""
    classes = getattr(config, "architectures", None) or ()
    return config.num_labels if any(name.endswith("ForSequenceClassification") for name in classes) else None


def has_head(model: Any) -> bool:
    """Whether a Hugging Face model, without adapters, has a score head in place of logits."""
    return hasattr(model, NAME) and type(model).__name__.endswith("ForSequenceClassification")


def output_layer(model: Any) -> Any:
    """The last layer of a Hugging Face model: its score head, or what makes its logits."""
    return getattr(model, NAME) if has_head(model) else model.get_output_embeddings()


def declare(config: Any, head: ScoreHead | None, where: str) -> None:
    """Writes the number of scores into a Hugging Face config that has been read.

    Raises:
        InputError: if a classifier is to be used as a language model, or has another number of scores.
    """
    stored = stored_heads(config)
    if head is None:
        if stored is not None:
            raise InputError(
                f"{where} is a reward model or another classifier: it has no logits. Set network.head: {{heads: "
                f"{stored}}} to train it as a reward model, or give the folder of a causal language model."
            )
        return
    if stored is not None and stored != head.heads:
        raise InputError(
            f"{where} has a head of {stored} scores, and head.heads is {head.heads}; set it to {stored}."
        )
    config.num_labels = head.heads


@torch.no_grad()
def draw(model: Any, head: ScoreHead) -> None:
    """Fresh numbers for the head of a model, each score's from a seed of its own."""
    weight = getattr(model, NAME).weight
    std = (weight.shape[1] + 1) ** -0.5 if head.std is None else head.std
    for k, row in enumerate(weight):
        generator = torch.Generator().manual_seed(digest("score head", head.seed, k))
        row.copy_(torch.randn(row.shape, generator=generator) * std)


def check_class(model: Any) -> None:
    """Raises InputError for a classifier that is more than one dense layer on the last hidden state."""
    layer = getattr(model, NAME, None)
    if not isinstance(layer, nn.Linear) or layer.bias is not None:
        raise InputError(
            f"{type(model).__name__} has no single linear layer {NAME!r} on its last hidden state; reward models of "
            "this architecture are not supported."
        )


def check_loaded(model: Any, missing: set[str], stored: int | None, where: str) -> None:
    """Refuses a network of which more is missing than the head of a causal language model.

    Raises:
        InputError: naming what is missing.
    """
    check_class(model)
    lacking = sorted(missing - (set() if stored else {f"{NAME}.weight"}))
    if lacking:
        raise InputError(
            f"{where} lacks {len(lacking)} weights of a {type(model).__name__}, such as {lacking[:3]}; "
            "it is no whole reward model."
        )


@contextmanager
def quiet_report() -> Iterator[None]:
    """Runs the block without transformers' warnings of what a causal language model lacks as a classifier."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
