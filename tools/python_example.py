"""SFT, then GRPO, from Python alone: the same objects that the YAML files name, and a reward of one's own.

python tools/python_example.py
"""

import argparse
from pathlib import Path

import lightning.pytorch as pl

from lit_posttrain.batches import Completion, Grade, Problem, Sampling
from lit_posttrain.checkpoints.export import export
from lit_posttrain.data import ChatData, PromptData
from lit_posttrain.data.sources import Arithmetic
from lit_posttrain.graders.single import SingleGrader
