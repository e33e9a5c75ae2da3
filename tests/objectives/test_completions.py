"""Factors on the log-probs of tokens, worked by hand on packed rows."""

import pytest
import torch

from lit_posttrain.objectives.completions import (
    Averaged,
    Desensitised,
    Summed,
    completion_tokens,
    token_factors,
)

SEGMENTS = torch.tensor([[1, 1, 1, 2, 2, 2, 2, 0], [3, 3, 3, 3, 3, 3, 0, 0]])
MASK = torch.tensor([[0, 1, 1, 0, 1, 1, 1, 0], [0, 1, 0, 0, 1, 1, 0, 0]]).bool()
"""The third sequence has a message of the user within: its second answer goes on counting."""
TOKENS = torch.tensor([2, 3, 3])
SHARED = torch.tensor([2, 2, 1])
A = 0.25


def test_tokens_are_those_under_the_mask():
    assert completion_tokens(MASK, SEGMENTS, 3).tolist() == [2, 3, 3]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (Summed(), [[0, 1, 1, 0, 1, 1, 1, 0], [0, 1, 0, 0, 1, 1, 0, 0]]),
        (Averaged(), [[0, 1 / 2, 1 / 2, 0, 1 / 3, 1 / 3, 1 / 3, 0], [0, 1 / 3, 0, 0, 1 / 3, 1 / 3, 0, 0]]),
        (Desensitised(A), [[0, 1, 1, 0, 1, 1, A, 0], [0, 1, 0, 0, A, A, 0, 0]]),
    ],
)
def test_factors(how, expected):
    factors = token_factors(how, MASK, SEGMENTS, TOKENS, SHARED)
    assert torch.allclose(factors, torch.tensor(expected, dtype=torch.float32), atol=1e-7)


def test_a_sequence_without_tokens_gives_no_nan():
    none = torch.zeros_like(MASK)
    factors = token_factors(Averaged(), none, SEGMENTS, torch.zeros(3, dtype=torch.int64), SHARED)
    assert not factors.any()
