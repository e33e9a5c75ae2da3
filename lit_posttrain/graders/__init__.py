"""Graders: from a completion to a grade. One file per grader; none executes model text in this process."""

from lit_posttrain.graders.answer_format import AnswerFormat, TagFormat
from lit_posttrain.graders.answer_key import MathKey, NumberKey, TextKey
from lit_posttrain.graders.code_tests import CodeTests
from lit_posttrain.graders.compose import WeightedSum
from lit_posttrain.graders.constraints import EndsWith, LengthWindow, MustContain
from lit_posttrain.graders.countdown import Countdown
from lit_posttrain.graders.exact import ExactMatch, NumericMatch
from lit_posttrain.graders.function import PythonFunction
from lit_posttrain.graders.grading import grade_all
from lit_posttrain.graders.math_answer import MathAnswer
from lit_posttrain.graders.reward_model import EnsembleMean, EnsembleMinimum, MeanLessSpread, RewardModel
from lit_posttrain.graders.steps import ProcessRewardModel

__all__ = [
    "AnswerFormat",
    "CodeTests",
    "Countdown",
    "EndsWith",
    "EnsembleMean",
    "EnsembleMinimum",
    "ExactMatch",
    "LengthWindow",
    "MathAnswer",
    "MathKey",
    "MeanLessSpread",
    "MustContain",
    "NumberKey",
    "NumericMatch",
    "ProcessRewardModel",
    "PythonFunction",
    "RewardModel",
    "TagFormat",
    "TextKey",
    "WeightedSum",
    "grade_all",
]
