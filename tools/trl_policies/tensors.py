"""The tensors that both sides get: rewards, and log-probs of completions of 3 problems, 8 of each."""

import torch
from torch import Tensor

Tensors = dict[str, Tensor]

PROBLEMS, GROUP, WIDTH = 3, 8, 12
ROWS = PROBLEMS * GROUP
LENGTHS = [3, 8, 12, 5, 9, 12, 7, 8, 2, 11, 12, 4, 1, 6, 10, 12, 5, 12, 3, 9, 12, 1, 7, 6]
"""Tokens of the completions, with the end token but where they were cut."""
CUT = [2, 10, 15, 20]
"""Completions that reached the limit of 12 tokens without an end token; 5 and 17 have it as their twelfth."""
PAD, END, WORD, OTHER, FIRST_PROMPT = 0, 1, 2, 3, 4
"""Token ids: the prompt of completion i is the one token 4 + i, by which networks know whom they are asked for."""


def tensors(
    *,
    near: bool = False,
    scale: float = 1.0,
    ungraded: bool = False,
    equal_means: bool = False,
    uniform: bool = False,
    even: bool = False,
) -> Tensors:
    """Everything that a case may need; per token (24, 12), 0 outside of completions.

    Args:
        near: The policy is the one that drew.
        scale: Of the rewards.
        ungraded: The sixth completion has no reward.
        equal_means: All groups have the same mean reward.
        uniform: All completions of the second problem have the same rewards.
        even: All completions have 12 tokens.
    """
    draw = torch.Generator().manual_seed(11)
    lengths = torch.tensor([WIDTH] * ROWS if even else LENGTHS)
    mask = torch.arange(WIDTH) < lengths[:, None]

    def noise(size: float) -> Tensor:
        return torch.randn(ROWS, WIDTH, generator=draw) * size

    old = -torch.empty(ROWS, WIDTH).exponential_(1.0, generator=draw) - 0.05
    shift, gap, pull, values = noise(0.4), noise(0.5), noise(0.6), noise(0.7)
    rewards = torch.randn(ROWS, 2, generator=draw)
    if equal_means:
        groups = rewards.view(PROBLEMS, GROUP, 2)
        rewards = (groups - groups.mean(dim=1, keepdim=True)).view(ROWS, 2)
    if uniform:
        rewards[GROUP : 2 * GROUP] = 1 / 3
    rewards = rewards * scale
    if ungraded:
        rewards[5] = torch.nan
    new = (old if near else old + shift).clamp(max=-0.01)
    moved = (values + noise(0.4)) * mask
    return {
        "mask": mask,
        "cut": torch.isin(torch.arange(ROWS), torch.tensor(CUT)),
        "injected": mask
        & (torch.arange(WIDTH) > 0)
        & (torch.arange(ROWS * WIDTH).view(ROWS, WIDTH) % 5 == 2),
        "old": old * mask,
        "sampled": (old + gap).clamp(max=-0.01) * mask,
        "reference": (old + pull).clamp(max=-0.01) * mask,
        "values": values,
        "rewards": rewards,
        "leaf": torch.stack([new * mask, torch.rand(ROWS, WIDTH, generator=draw) * 2 * mask, moved]),
    }


def policy(given: Tensors) -> Tensor:
    """Log-probs of the present policy: the first part of the leaf, by which gradients are taken."""
    return given["leaf"][0]


def entropy(given: Tensors) -> Tensor:
    """Entropies of the present policy's next token: the second part."""
    return given["leaf"][1]


def new_values(given: Tensors) -> Tensor:
    """Values of the present value network before each token: the third part."""
    return given["leaf"][2]
