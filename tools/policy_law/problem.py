"""All sequences of at most three of four tokens, their rewards, and the policies that are best for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from lit_posttrain import collate
from lit_posttrain.batches import Completion, Grade, Problem, TokenBatch, Verdict
from lit_posttrain.contracts import Grader, ProblemSource
from lit_posttrain.networks import CausalNetwork, NetworkConfig, token_logprobs
from lit_posttrain.text import TextConfig, load_text

MOST = 3
TEXT = TextConfig(characters="ab")  # <pad>, <unk>, a and b can be written; <eos> ends
PROMPT = "a"
SHAPE: dict[str, Any] = {
    "model_type": "gpt2",
    "vocab_size": 5,
    "n_positions": 8,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 2,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": None,
    **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
}
"""Learned positions: with rotary ones so small a network cannot tell the prompt's token from the same one written, and
ends .01 to .35 away from the best policy even by exact gradients."""


def network(seed: int) -> NetworkConfig:
    """A random network whose policy is far from uniform."""
    return NetworkConfig(config=SHAPE, seed=seed, chunk_tokens=0)


def sequences() -> list[tuple[int, ...]]:
    """All 85, as token ids with the end where there is one."""
    end = load_text(TEXT).end_id
    tokens = [token for token in range(SHAPE["vocab_size"]) if token != end]
    return [
        (*written, end) if length < MOST else written
        for length in range(MOST + 1)
        for written in product(tokens, repeat=length)
    ]


def rewards(seed: int) -> Tensor:
    """A fixed reward N(0, 1) of each sequence (85,)."""
    return torch.randn(len(sequences()), generator=torch.Generator().manual_seed(1000 + seed))


@dataclass(frozen=True)
class TableGrader(Grader):
    """Looks the reward of a completion up by its tokens.

    Args:
        seed: Of the rewards.
    """

    seed: int

    def grade(self, items: Sequence[tuple[Problem, Completion]]) -> list[Grade]:
        """One grade for each."""
        table = dict(zip(sequences(), rewards(self.seed).tolist(), strict=True))
        return [
            Grade(table[tuple(completion.tokens.tolist())], None, Verdict.PARTIAL) for _, completion in items
        ]


@dataclass(frozen=True)
class OnePrompt(ProblemSource):
    """The same prompt, under several names.

    Args:
        count: How many.
    """

    count: int

    def problems(self, split: str) -> list[Problem]:
        """All of them."""
        return [
            Problem(({"role": "user", "content": PROMPT},), None, f"{split}-{i}", "law")
            for i in range(self.count)
        ]


def log_policy(policy: CausalNetwork) -> Tensor:
    """The log-probability of every sequence (85,), float64, with a gradient where the caller allows one."""
    batch = listed()
    return token_logprobs(policy, batch).double().sum(dim=1)


def listed() -> TokenBatch:
    """Prompt and sequence in each row."""
    prompt = load_text(TEXT).prompt_ids([{"role": "user", "content": PROMPT}])
    ids = [[*prompt, *sequence] for sequence in sequences()]
    masks = [[False] * len(prompt) + [True] * (len(row) - len(prompt)) for row in ids]
    return collate.from_lists(ids, masks, 0)


def best(reference: Tensor, reward: Tensor, beta: float) -> Tensor:
    """pi* (85,) from log-probs of the reference: pi_ref exp(r / beta) / Z."""
    return (reference + reward.double() / beta).softmax(0)


def forward_best(reference: Tensor, reward: Tensor, beta: float) -> Tensor:
    """What maximises E r - beta KL(pi_ref || pi): beta pi_ref / (lambda - r), with lambda found by bisection."""
    r, p = reward.double(), reference.exp()
    low, high = r.max() + 1e-12, r.max() + beta * len(r) + 10
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (beta * p / (middle - r)).sum() > 1 else (low, middle)
    found = beta * p / (high - r)
    return found / found.sum()


def variation(left: Tensor, right: Tensor) -> float:
    """Total variation of two distributions."""
    return float((left - right).abs().sum() / 2)
