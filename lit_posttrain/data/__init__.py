"""Text to batches: DataModules, sources, the cutting of steps and the outer loop of online methods."""

from lit_posttrain.data.chat import ChatData
from lit_posttrain.data.expert_iteration import ExpertIterationData
from lit_posttrain.data.prompts import PromptData

__all__ = ["ChatData", "ExpertIterationData", "PromptData"]
