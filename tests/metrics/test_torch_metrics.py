import math

import pytest
import torch

from lit_posttrain.batches import Grade, Verdict
from lit_posttrain.metrics import MajorityAtK, MeanAccuracy, MeanReward, PassAtK

RIGHT = Grade(1.0, True, Verdict.CORRECT, answer_key="7")
WRONG = Grade(0.0, False, Verdict.INCORRECT, answer_key="8")
UNKNOWN = Grade(None, None, Verdict.GRADER_ERROR)
GROUPS = [[RIGHT, RIGHT, WRONG], [WRONG, WRONG, WRONG], [RIGHT, UNKNOWN, UNKNOWN], [UNKNOWN] * 3]


def test_values_by_hand():
    accuracy, best, vote, reward = MeanAccuracy(), PassAtK(2), MajorityAtK(3), MeanReward()
    for metric in (accuracy, best, vote, reward):
        metric.update(GROUPS)
    assert accuracy.compute()["mean"].item() == pytest.approx((2 / 3 + 0 + 1) / 3, abs=1e-12)
    assert best.compute()["mean"].item() == pytest.approx(
        (1 + 0) / 2, abs=1e-12
    )  # the third has one sample only
    assert vote.compute()["mean"].item() == pytest.approx((1 + 0) / 2, abs=1e-12)
    assert reward.compute()["mean"].item() == pytest.approx((2 / 3 + 0 + 1) / 3, abs=1e-12)
    assert best.compute()["standard_error"].item() == pytest.approx(0.5, abs=1e-12)  # sqrt(1/2 / 2)


def test_batches_add_up():
    whole, parts = MeanAccuracy(), MeanAccuracy()
    whole.update(GROUPS)
    for group in GROUPS:
        parts.update([group])
    for name, value in whole.compute().items():
        assert torch.allclose(value, parts.compute()[name], atol=1e-12)


def test_nothing_judged_is_unknown():
    metric = MeanAccuracy()
    metric.update([[UNKNOWN]])
    assert math.isnan(metric.compute()["mean"].item())
