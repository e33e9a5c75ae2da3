"""Spending compute on a problem at test time."""

from lit_posttrain.test_time.module import TestTimeModule
from lit_posttrain.test_time.sample import Sample, solve_all

__all__ = ["Sample", "TestTimeModule", "solve_all"]
