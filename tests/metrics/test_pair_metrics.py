import math

import pytest
import torch

from lit_posttrain.metrics import (
    CalibrationError,
    LengthCorrelation,
    PairAccuracy,
    calibration_error,
    fitted_temperature,
)

LOGIT_9 = math.log(0.9 / 0.1)  # a margin that predicts 0.9
LOGIT_7 = math.log(0.7 / 0.3)


def test_accuracy_counts_ties_half_over_batches():
    metric = PairAccuracy()
    metric.update(torch.tensor([2.0, -1.0]))
    metric.update(torch.tensor([0.0, 0.5]))
    found = metric.compute()
    assert float(found["mean"]) == 0.625  # (1 + 0 + 1/2 + 1) / 4
    # deviations 3/8, -5/8, -1/8, 3/8: squares sum to 44/64, variance 44/192, over 4
    assert float(found["standard_error"]) == pytest.approx(math.sqrt(44 / 192 / 4), abs=1e-12)


def test_calibration_error_by_hand():
    """Ten pairs predicted at 0.9 of which 6 come true, five at 0.7 of which 4 do: (10 x 0.3 + 5 x 0.1) / 15."""
    margins = torch.tensor([LOGIT_9] * 6 + [-LOGIT_9] * 4 + [LOGIT_7] * 4 + [-LOGIT_7], dtype=torch.float64)
    assert float(calibration_error(margins)) == pytest.approx(3.5 / 15, abs=1e-9)
    perfect = torch.tensor([LOGIT_9] * 9 + [-LOGIT_9], dtype=torch.float64)
    assert float(calibration_error(perfect)) == pytest.approx(0, abs=1e-9)
    assert float(calibration_error(torch.zeros(4))) == 0  # ties predict 1/2, and come true by half
    assert float(calibration_error(torch.tensor([1e4, 1e4]))) == pytest.approx(0, abs=1e-9)


def test_temperature_by_hand():
    """Pairs of one size m, of which a share q is right, are likeliest at t = m / logit(q)."""
    margins = torch.tensor([3.0] * 9 + [-3.0])
    assert float(fitted_temperature(margins)) == pytest.approx(3 / LOGIT_9, rel=1e-6)
    metric = CalibrationError()
    for part in margins.split(4):
        metric.update(part)
    found = metric.compute()
    assert float(found["error"]) == pytest.approx(1 / (1 + math.exp(-3)) - 0.9, abs=1e-6)
    assert float(found["fitted_error"]) == pytest.approx(0, abs=1e-6)
    assert float(found["temperature"]) == pytest.approx(3 / LOGIT_9, rel=1e-6)


def test_temperature_stays_in_its_range():
    assert float(fitted_temperature(torch.tensor([1.0, 2.0]))) == pytest.approx(1e-3, rel=1e-6)
    assert float(fitted_temperature(torch.tensor([1.0, -2.0]))) == pytest.approx(1e3, rel=1e-6)
    assert fitted_temperature(torch.zeros(0)).isnan()


def test_temperature_of_drawn_preferences():
    """Preferences drawn at temperature 2 from margins: the fit gives 2 back."""
    generator = torch.Generator().manual_seed(0)
    differences = 3 * torch.randn(20_000, generator=generator)
    first = torch.rand(20_000, generator=generator) < torch.sigmoid(differences / 2)
    margins = torch.where(first, differences, -differences)
    assert float(fitted_temperature(margins)) == pytest.approx(2, rel=0.05)
    assert float(calibration_error(margins / 2)) < 0.015
    assert float(calibration_error(margins)) > 0.05


def test_length_correlation_by_hand():
    metric = LengthCorrelation()
    metric.update(torch.tensor([1.0, -2.0]), torch.tensor([3, 1]))
    metric.update(torch.tensor([2.0]), torch.tensor([2]))
    # products 3 - 2 + 4 = 5, squares 9 and 14
    assert float(metric.compute()) == pytest.approx(5 / math.sqrt(9 * 14), abs=1e-12)
    turned = LengthCorrelation()
    turned.update(torch.tensor([-1.0, -2.0, 2.0]), torch.tensor([-3, 1, 2]))
    assert float(turned.compute()) == pytest.approx(float(metric.compute()), abs=1e-12)


def test_length_correlation_without_differences():
    metric = LengthCorrelation()
    metric.update(torch.tensor([1.0]), torch.tensor([0]))
    assert float(metric.compute()) == 0
