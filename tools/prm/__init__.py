"""The parts of bench_prm.py."""
