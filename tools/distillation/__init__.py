"""The experiments of `tools/bench_distillation.py`."""
