"""What is compared with what in tools/bench_recipes.py, and how it is told."""
