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

__all__ = [
    "AnswerFormat",
    "CodeTests",
    "Countdown",
    "EndsWith",
    "ExactMatch",
    "LengthWindow",
    "MathAnswer",
    "MathKey",
    "MustContain",
    "NumberKey",
    "NumericMatch",
    "PythonFunction",
    "TagFormat",
    "TextKey",
    "WeightedSum",
    "grade_all",
]
