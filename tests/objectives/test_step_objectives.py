"""The loss of steps and the aggregation of their scores, by hand."""

import math

import pytest
import torch
from torch import tensor

from lit_posttrain.errors import InputError
from lit_posttrain.objectives.steps import AGGREGATIONS, aggregation, solution_score, step_loss

LN2, LN3 = math.log(2), math.log(3)


def test_loss_of_hard_and_soft_labels_by_hand():
    # sigmoid(ln 3) = 3/4, so its log is ln 3 - 2 ln 2, and that of the rest, 1/4, is -2 ln 2
    scores = tensor([0.0, LN3, LN3, LN3], dtype=torch.float64)
    labels = tensor([1.0, 1.0, 0.0, 0.25], dtype=torch.float64)
    wanted = [LN2, 2 * LN2 - LN3, 2 * LN2, 0.25 * (2 * LN2 - LN3) + 0.75 * 2 * LN2]
    assert step_loss(scores, labels).tolist() == pytest.approx(wanted, abs=1e-12)


def test_gradient_is_the_chance_less_the_label():
    scores = tensor([LN3, LN3, -800.0, 800.0], dtype=torch.float64, requires_grad=True)
    labels = tensor([1.0, 0.25, 0.0, 0.0], dtype=torch.float64)
    losses = step_loss(scores, labels)
    (gradient,) = torch.autograd.grad(losses.sum(), scores)
    assert gradient.tolist() == pytest.approx([-0.25, 0.5, 0.0, 1.0], abs=1e-12)
    assert losses.tolist()[2:] == pytest.approx([0.0, 800.0])  # no overflow on either side


def test_a_soft_label_is_reached_where_the_chance_is_the_label():
    labels = torch.full((3,), 0.75, dtype=torch.float64)
    below, at, above = step_loss(tensor([LN3 - 0.1, LN3, LN3 + 0.1], dtype=torch.float64), labels).tolist()
    assert at == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert at < min(below, above)


@pytest.mark.parametrize("label", [-0.1, 1.1, math.nan])
def test_labels_outside_of_the_unit_interval_are_refused(label):
    with pytest.raises(InputError, match="from 0 to 1"):
        step_loss(tensor([0.0, 0.0]), tensor([1.0, label]))


@pytest.mark.parametrize(
    ("how", "wanted"), [("minimum", 0.2), ("product", 0.04), ("last", 0.5), ("mean", 1.1 / 3)]
)
def test_one_score_of_three_steps(how, wanted):
    assert solution_score(tensor([0.4, 0.2, 0.5]), how) == pytest.approx(wanted, abs=1e-7)


@pytest.mark.parametrize("how", list(AGGREGATIONS))
def test_unknown_steps_are_left_out_and_solutions_without_any_get_log_1(how):
    logs = tensor([[0.4, math.nan, 0.2, math.nan], [0.9, 0.9, 0.9, 0.9]]).log()
    known = tensor([[True, False, True, False], [False] * 4])
    got = AGGREGATIONS[how](logs, known).exp().tolist()
    wanted = {"minimum": 0.2, "product": 0.08, "last": 0.2, "mean": 0.3}[how]
    assert got == pytest.approx([wanted, 1.0])


def test_a_product_of_many_small_chances_does_not_underflow_in_log_space():
    logs = torch.full((1, 4000), 0.5).log()
    assert AGGREGATIONS["product"](logs, torch.ones(1, 4000, dtype=torch.bool)).item() == pytest.approx(
        -4000 * LN2, rel=1e-5
    )


@pytest.mark.parametrize("how", list(AGGREGATIONS))
def test_a_chance_of_0_is_taken(how):
    wanted = {"minimum": 0.0, "product": 0.0, "last": 1.0, "mean": 0.5}[how]
    assert solution_score(tensor([0.0, 1.0]), how) == pytest.approx(wanted)


def test_bad_names_and_empty_solutions_are_refused():
    with pytest.raises(InputError, match=r"no aggregation 'median'.*minimum, product, last, mean"):
        aggregation("median")
    with pytest.raises(InputError, match="without steps"):
        solution_score(tensor([]), "mean")
