"""Parts of `bench_code_rl.py`."""
