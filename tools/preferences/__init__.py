"""The parts of bench_preferences.py."""
