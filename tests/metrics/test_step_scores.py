"""Measures of how well wrong steps are found, by hand."""

import math

import pytest

from lit_posttrain.errors import InputError
from lit_posttrain.metrics import StepScores, best_threshold, first_error, step_counts
from lit_posttrain.metrics.step_scores import StepCounts

SCORES = [[0.9, 0.2, 0.1], [0.9, 0.8, 0.3], [0.4, 0.9], [0.7, 0.6, 0.2, 0.9]]
LABELS = [[1.0, 0.0, 0.0], [1.0, 0.0, None], [1.0, 1.0], [1.0, 1.0, 0.0, None]]
# solution 0: both wrong steps found, the first error at 1 located
# solution 1: the wrong step 1 missed; the flag at 2 has no label, and is not where the first error is
# solution 2: flawless, with a false alarm at 0
# solution 3: the first error at 2 located
TOTAL = StepCounts(found=3, missed=1, alarms=1, erroneous=3, located=2, flawless=1, spared=0)


@pytest.mark.parametrize(
    ("scores", "wanted"),
    [([0.9, 0.5], -1), ([0.9, 0.49, 0.1], 1), ([None, 0.2], 1), ([], -1), ([None, None], -1)],
)
def test_first_error_is_the_first_below_the_threshold(scores, wanted):
    assert first_error(scores) == wanted


def test_counts_by_hand():
    found = [step_counts(mine, gold) for mine, gold in zip(SCORES, LABELS, strict=True)]
    assert found[0] == StepCounts(found=2, erroneous=1, located=1)
    assert found[1] == StepCounts(missed=1, erroneous=1)
    assert found[2] == StepCounts(alarms=1, flawless=1)
    assert found[3] == StepCounts(found=1, erroneous=1, located=1)
    assert sum(found, StepCounts()) == TOTAL


def test_an_alarm_before_the_first_error_does_not_locate_it():
    assert step_counts([0.1, 0.1], [1.0, 0.0]) == StepCounts(found=1, alarms=1, erroneous=1)


def test_measures_by_hand():
    assert (TOTAL.precision, TOTAL.recall, TOTAL.step_f1) == (3 / 4, 3 / 4, 6 / 8)
    assert TOTAL.first_error_accuracy == 2 / 4
    assert (TOTAL.erroneous_accuracy, TOTAL.flawless_accuracy) == (2 / 3, 0.0)
    assert TOTAL.processbench_f1 == 0.0
    better = StepCounts(erroneous=3, located=2, flawless=2, spared=1)
    assert better.processbench_f1 == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))  # 4/7


def test_measures_are_unknown_without_what_they_speak_of():
    only_right = StepCounts(flawless=1, spared=1)
    assert math.isnan(only_right.step_f1)
    assert math.isnan(only_right.processbench_f1)
    assert only_right.first_error_accuracy == 1.0


def test_the_metric_adds_up_over_batches():
    metric = StepScores()
    metric.update(SCORES[:3], LABELS[:3])
    metric.update(SCORES[3:], LABELS[3:])
    got = {name: value.item() for name, value in metric.compute().items()}
    assert got["step_f1"] == 0.75
    assert got["first_error_accuracy"] == 0.5
    assert got["erroneous_accuracy"] == pytest.approx(2 / 3)
    metric.reset()
    metric.update([[0.9]], [[1.0]])
    assert metric.compute()["step_f1"].isnan()
    assert metric.compute()["flawless_accuracy"] == 1.0


def test_the_threshold_moves_what_is_found():
    metric = StepScores(threshold=0.15)
    metric.update(SCORES, LABELS)  # only the last step of solution 0 is flagged
    assert metric.compute()["flawless_accuracy"] == 1.0
    assert metric.compute()["erroneous_accuracy"] == 0.0


def test_best_threshold_separates_what_can_be_separated():
    scores, labels = [[0.9, 0.7], [0.8, 0.3], [0.65, 0.6]], [[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    best = best_threshold(scores, labels)
    assert best == pytest.approx(0.45)
    assert (
        sum(
            (step_counts(*pair, best) for pair in zip(scores, labels, strict=True)), StepCounts()
        ).processbench_f1
        == 1
    )


def test_best_threshold_of_many_scores_is_close():
    scores = [[i / 1000] for i in range(1000)]
    labels = [[float(i >= 700)] for i in range(1000)]
    assert best_threshold(scores, labels) == pytest.approx(0.7, abs=0.006)


def test_bad_input():
    with pytest.raises(InputError, match="2 scores of steps, but 1 labels"):
        step_counts([0.1, 0.2], [1.0])
    with pytest.raises(InputError, match="got none"):
        best_threshold([[]], [[]])
