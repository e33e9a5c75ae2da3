"""Dataset sources: one file each."""

from lit_posttrain.data.sources.arithmetic import Arithmetic
from lit_posttrain.data.sources.chained import ChainedArithmetic
from lit_posttrain.data.sources.countdown import Countdown
from lit_posttrain.data.sources.gsm8k import GSM8K
from lit_posttrain.data.sources.mixture import Mixture, WithReplay
from lit_posttrain.data.sources.pool import Pool
from lit_posttrain.data.sources.streaming import Streaming
from lit_posttrain.data.sources.table import Table
from lit_posttrain.data.sources.words import WordPrompts

__all__ = [
    "GSM8K",
    "Arithmetic",
    "ChainedArithmetic",
    "Countdown",
    "Mixture",
    "Pool",
    "Streaming",
    "Table",
    "WithReplay",
    "WordPrompts",
]
