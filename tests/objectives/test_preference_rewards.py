"""Losses of reward models against values worked by hand."""

import math

import pytest
import torch

from lit_posttrain.errors import InputError
from lit_posttrain.objectives.preference import BradleyTerry
from lit_posttrain.objectives.rankings import BinaryRegression, PairwiseWithinGroup, PlackettLuce, Regression


def bradley_terry_case(loss):
    """Scores 2, 0.5 against 1, 1.5; asked margins 0.5 and 0."""
    chosen, rejected = (torch.tensor(v, requires_grad=True) for v in ([2.0, 0.5], [1.0, 1.5]))
    losses, stats = loss(chosen, rejected, torch.tensor([0.5, 0.0]))
    losses.sum().backward()
    return losses.tolist(), chosen.grad.tolist(), rejected.grad.tolist(), stats


def test_bradley_terry_with_margin():
    # -log sigmoid(0.5), -log sigmoid(-1); slopes -sigmoid(-0.5), -sigmoid(1)
    losses, up, down, stats = bradley_terry_case(BradleyTerry())
    assert losses == pytest.approx([0.474077, 1.313262], abs=1e-6)
    assert up == pytest.approx([-0.377541, -0.731059], abs=1e-6)
    assert down == pytest.approx([0.377541, 0.731059], abs=1e-6)
    assert stats["preference/margin"].tolist() == [1.0, -1.0]
    assert stats["preference/accuracy"].tolist() == [1.0, 0.0]
    assert stats["preference/gradient_weight"].tolist() == pytest.approx([0.377541, 0.731059], abs=1e-6)


def test_bradley_terry_without_margin():
    losses, *_ = bradley_terry_case(BradleyTerry(use_margin=False))
    assert losses == pytest.approx([0.313262, 1.313262], abs=1e-6)


def test_centring_draws_the_sum_to_zero():
    # sums 3 and 2: + 0.01 * 9, + 0.01 * 4; slopes + 0.02 * 3, + 0.02 * 2 on both sides
    losses, up, down, _ = bradley_terry_case(BradleyTerry(centring=0.01))
    assert losses == pytest.approx([0.564077, 1.353262], abs=1e-6)
    assert up == pytest.approx([-0.317541, -0.691059], abs=1e-6)
    assert down == pytest.approx([0.437541, 0.771059], abs=1e-6)


def test_smoothing():
    # 0.9 * 0.474077 + 0.1 * 0.974077; 0.9 * 1.313262 + 0.1 * 0.313262
    losses, up, _, stats = bradley_terry_case(BradleyTerry(smoothing=0.1))
    assert losses == pytest.approx([0.524077, 1.213262], abs=1e-6)
    assert up == pytest.approx([-0.277541, -0.631059], abs=1e-6)
    assert stats["preference/gradient_weight"].tolist() == pytest.approx([0.277541, 0.631059], abs=1e-6)


def test_ties_are_half_right_and_extremes_finite():
    scores = torch.tensor([1.0, 1e4, -1e4])
    losses, stats = BradleyTerry()(scores, torch.tensor([1.0, -1e4, 1e4]), torch.zeros(3))
    assert losses.tolist() == pytest.approx([math.log(2), 0.0, 2e4], abs=1e-6)
    assert stats["preference/accuracy"].tolist() == [0.5, 1.0, 0.0]


def ranked(loss, scores, targets, group):
    scores = torch.tensor(scores, requires_grad=True)
    losses, stats = loss(scores, torch.tensor(targets), torch.tensor(group))
    losses.sum().backward()
    return losses.tolist(), scores.grad.tolist(), stats


def test_regression():
    losses, gradient, stats = ranked(Regression(), [1.0, 0.5], [3.0, 0.0], [0, 1])
    assert losses == [4.0, 0.25]
    assert gradient == [-4.0, 1.0]
    assert stats["preference/score_error"].tolist() == [2.0, 0.5]


def test_binary_regression():
    # -log sigmoid(1); 0.25 * 0.474077 + 0.75 * 0.974077; slopes sigmoid(1) - 1, sigmoid(0.5) - 0.25
    losses, gradient, stats = ranked(BinaryRegression(), [1.0, 0.5], [1.0, 0.25], [0, 1])
    assert losses == pytest.approx([0.313262, 0.849077], abs=1e-6)
    assert gradient == pytest.approx([-0.268941, 0.372459], abs=1e-6)
    assert stats["preference/score_error"].tolist() == pytest.approx([0.268941, 0.372459], abs=1e-6)
    with pytest.raises(InputError, match="targets from 0 to 1"):
        ranked(BinaryRegression(), [0.0], [1.5], [0])


def test_plackett_luce():
    # ranking 1 > 0 > 2 by score 1, 0, 2 in the first group; the second, between its rows, is a pair 0.5 > 0
    losses, gradient, _ = ranked(
        PlackettLuce(), [1.0, 0.5, 0.0, 0.0, 2.0], [3.0, 9.0, 2.0, 8.0, 1.0], [0, 1, 0, 1, 0]
    )
    # log(e + 1 + e^2) - 1; -log sigmoid(0.5); log(1 + e^2); 0; 0
    assert losses == pytest.approx([1.407606, 0.474077, 2.126928, 0.0, 0.0], abs=1e-6)
    # first group: 0.244728 - 1; 0.090031 + 0.119203 - 1; 0.665241 + 0.880797
    assert gradient == pytest.approx([-0.755272, -0.377541, -0.790766, 0.377541, 1.546038], abs=1e-6)


def test_plackett_luce_leaves_ties_alone():
    losses, gradient, _ = ranked(PlackettLuce(), [1.0, 5.0, 0.0], [2.0, 2.0, 1.0], [0, 0, 0])
    assert losses == pytest.approx([0.313262, 0.006715, 0.0], abs=1e-6)  # each against the last alone
    assert gradient == pytest.approx([-0.268941, -0.006693, 0.275634], abs=1e-6)


def test_pairs_within_a_group():
    # group 0: 1 > 0 > 2 with scores 1, 0, 2, pairs -log sigmoid(1), (-1), (-2) = 0.313262, 1.313262, 2.126928;
    # each half to both sides, and size / pairs = 1. Group 1: a single one. Group 2: a tie.
    losses, _, _ = ranked(
        PairwiseWithinGroup(),
        [1.0, 0.0, 2.0, 7.0, 3.0, 4.0],
        [3.0, 2.0, 1.0, 1.0, 5.0, 5.0],
        [0, 0, 0, 1, 2, 2],
    )
    assert losses == pytest.approx([0.813262, 1.220095, 1.720095, 0.0, 0.0, 0.0], abs=1e-6)


def test_a_group_counts_by_its_mean_over_pairs():
    # two comparable pairs among three, as two are tied: 0.313262 (1 over 0) and 0.126928 (2 over 0)
    losses, gradient, _ = ranked(PairwiseWithinGroup(), [1.0, 2.0, 0.0], [2.0, 2.0, 1.0], [4, 4, 4])
    assert sum(losses) / 3 == pytest.approx((0.313262 + 0.126928) / 2, abs=1e-6)
    assert gradient[:2] == pytest.approx([-0.268941 * 3 / 2, -0.119203 * 3 / 2], abs=1e-6)
