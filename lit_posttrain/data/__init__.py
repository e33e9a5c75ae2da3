"""Text to batches: DataModules, sources, the cutting of steps and the outer loop of online methods."""

from lit_posttrain.data.chat import ChatData
from lit_posttrain.data.curriculum import NoPositiveResampling
from lit_posttrain.data.expert_iteration import ExpertIterationData
from lit_posttrain.data.preference_rounds import PreferenceRounds
from lit_posttrain.data.preferences import PreferenceData
from lit_posttrain.data.prompts import PromptData
from lit_posttrain.data.ranked import RankedData
from lit_posttrain.data.reference_cache import ReferenceCache
from lit_posttrain.data.refill import DynamicSampling
from lit_posttrain.data.solutions import StepData, StepLabels
from lit_posttrain.data.unpaired import UnpairedData

__all__ = [
    "ChatData",
    "DynamicSampling",
    "ExpertIterationData",
    "NoPositiveResampling",
    "PreferenceData",
    "PreferenceRounds",
    "PromptData",
    "RankedData",
    "ReferenceCache",
    "StepData",
    "StepLabels",
    "UnpairedData",
]
