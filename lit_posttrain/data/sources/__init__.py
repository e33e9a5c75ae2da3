"""Dataset sources: one file each."""

from lit_posttrain.data.sources.arithmetic import Arithmetic
from lit_posttrain.data.sources.chained import ChainedArithmetic
from lit_posttrain.data.sources.code_problems import CodeProblems
from lit_posttrain.data.sources.countdown import Countdown
from lit_posttrain.data.sources.derivations import Derivations
from lit_posttrain.data.sources.graded_pool import GradedPool
from lit_posttrain.data.sources.gsm8k import GSM8K
from lit_posttrain.data.sources.humaneval import HumanEval
from lit_posttrain.data.sources.mbpp import MBPP
from lit_posttrain.data.sources.mixture import Mixture, WithReplay
from lit_posttrain.data.sources.pool import Pool
from lit_posttrain.data.sources.streaming import Streaming
from lit_posttrain.data.sources.table import Table
from lit_posttrain.data.sources.tiny_programs import TinyPrograms
from lit_posttrain.data.sources.words import WordPrompts

__all__ = [
    "GSM8K",
    "MBPP",
    "Arithmetic",
    "ChainedArithmetic",
    "CodeProblems",
    "Countdown",
    "Derivations",
    "GradedPool",
    "HumanEval",
    "Mixture",
    "Pool",
    "Streaming",
    "Table",
    "TinyPrograms",
    "WithReplay",
    "WordPrompts",
]
