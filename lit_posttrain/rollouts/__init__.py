"""Prompts to graded completions."""

from lit_posttrain.rollouts.collect import draw, to_experience
from lit_posttrain.rollouts.error_search import FirstError, first_errors
from lit_posttrain.rollouts.outage import check_grader
from lit_posttrain.rollouts.overlong import Interrupted, Overlong, SoftPenalty, Unweighted
from lit_posttrain.rollouts.step_labels import RolloutSettings, StepRollouts, step_values
from lit_posttrain.rollouts.step_values import Solution, StepValue
from lit_posttrain.rollouts.torch_engine import TorchEngine

__all__ = [
    "FirstError",
    "Interrupted",
    "Overlong",
    "RolloutSettings",
    "SoftPenalty",
    "Solution",
    "StepRollouts",
    "StepValue",
    "TorchEngine",
    "Unweighted",
    "check_grader",
    "draw",
    "first_errors",
    "step_values",
    "to_experience",
]
