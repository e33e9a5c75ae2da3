"""Estimators of accuracy, as pure functions and as torchmetrics."""

from lit_posttrain.metrics.accuracy import (
    AccuracyStatistics,
    MeanOverProblems,
    accuracy_statistics,
    over_problems,
)
from lit_posttrain.metrics.calibration import CalibrationError, calibration_error, fitted_temperature
from lit_posttrain.metrics.majority import majority_at_k
from lit_posttrain.metrics.pair_accuracy import LengthCorrelation, PairAccuracy
from lit_posttrain.metrics.pass_at_k import best_of_k, pass_at_k
from lit_posttrain.metrics.step_scores import StepCounts, StepScores, best_threshold, first_error, step_counts
from lit_posttrain.metrics.torch_metrics import MajorityAtK, MeanAccuracy, MeanReward, PassAtK, ProblemMean

__all__ = [
    "AccuracyStatistics",
    "CalibrationError",
    "LengthCorrelation",
    "MajorityAtK",
    "MeanAccuracy",
    "MeanOverProblems",
    "MeanReward",
    "PairAccuracy",
    "PassAtK",
    "ProblemMean",
    "StepCounts",
    "StepScores",
    "accuracy_statistics",
    "best_of_k",
    "best_threshold",
    "calibration_error",
    "first_error",
    "fitted_temperature",
    "majority_at_k",
    "over_problems",
    "pass_at_k",
    "step_counts",
]
