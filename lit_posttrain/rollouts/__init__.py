"""Prompts to graded completions."""

from lit_posttrain.rollouts.collect import draw, to_experience
from lit_posttrain.rollouts.torch_engine import TorchEngine

__all__ = ["TorchEngine", "draw", "to_experience"]
