"""Prompts to graded completions."""

from lit_posttrain.rollouts.collect import draw, to_experience
from lit_posttrain.rollouts.outage import check_grader
from lit_posttrain.rollouts.torch_engine import TorchEngine

__all__ = ["TorchEngine", "check_grader", "draw", "to_experience"]
