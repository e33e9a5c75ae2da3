"""Dataset sources: one file each."""

from lit_posttrain.data.sources.arithmetic import Arithmetic
from lit_posttrain.data.sources.countdown import Countdown
from lit_posttrain.data.sources.gsm8k import GSM8K
from lit_posttrain.data.sources.table import Table
from lit_posttrain.data.sources.words import WordPrompts

__all__ = ["GSM8K", "Arithmetic", "Countdown", "Table", "WordPrompts"]
