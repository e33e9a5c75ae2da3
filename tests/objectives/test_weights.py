"""The four weightings on one 3-sequence step, worked by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_posttrain.objectives.weights import ConstantLength, PromptMean, SequenceMean, TokenMean

LENGTHS = torch.tensor([1, 3, 4])
GROUP = torch.tensor([0, 0, 1])


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        (TokenMean(), [1 / 8, 1 / 8, 1 / 8]),
        (SequenceMean(), [1 / 3, 1 / 9, 1 / 12]),
        (PromptMean(), [1 / 8, 1 / 8, 1 / 8]),  # 2 problems of 4 tokens each
        (ConstantLength(10), [1 / 30, 1 / 30, 1 / 30]),
    ],
)
def test_by_hand(weighting, expected):
    assert weighting(LENGTHS, GROUP).tolist() == pytest.approx(expected, abs=1e-7)


def test_prompt_mean_differs_where_problems_differ_in_length():
    weights = PromptMean()(torch.tensor([1, 3, 16]), torch.tensor([5, 5, 9]))
    assert weights.tolist() == pytest.approx([1 / 8, 1 / 8, 1 / 32], abs=1e-7)


@pytest.mark.parametrize("weighting", [TokenMean(), SequenceMean(), PromptMean(), ConstantLength(7)])
def test_empty_sequences_and_steps_give_zero(weighting):
    weights = weighting(torch.tensor([0, 2]), torch.tensor([0, 1]))
    assert weights[0] == 0
    assert weights[1] > 0
    assert weighting(torch.tensor([0, 0]), torch.tensor([0, 0])).tolist() == [0, 0]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3)), min_size=1, max_size=12))
def test_weights_of_a_step_sum_to_one(rows):
    lengths, group = torch.tensor([r[0] for r in rows]), torch.tensor([r[1] for r in rows])
    for weighting in (TokenMean(), SequenceMean(), PromptMean()):
        total = (weighting(lengths, group) * lengths).sum().item()
        assert total == pytest.approx(1.0 if lengths.sum() else 0.0, abs=1e-5)


def test_constant_length_is_checked():
    with pytest.raises(ValueError, match="at least 1"):
        ConstantLength(0)
