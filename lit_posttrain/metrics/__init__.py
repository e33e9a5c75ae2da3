"""Estimators of accuracy, as pure functions and as torchmetrics."""

from lit_posttrain.metrics.accuracy import (
    AccuracyStatistics,
    MeanOverProblems,
    accuracy_statistics,
    over_problems,
)
from lit_posttrain.metrics.majority import majority_at_k
from lit_posttrain.metrics.pass_at_k import best_of_k, pass_at_k
from lit_posttrain.metrics.torch_metrics import MajorityAtK, MeanAccuracy, MeanReward, PassAtK, ProblemMean

__all__ = [
    "AccuracyStatistics",
    "MajorityAtK",
    "MeanAccuracy",
    "MeanOverProblems",
    "MeanReward",
    "PassAtK",
    "ProblemMean",
    "accuracy_statistics",
    "best_of_k",
    "majority_at_k",
    "over_problems",
    "pass_at_k",
]
