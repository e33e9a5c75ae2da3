"""Post-training of language models on one axis: accuracy against compute."""

__version__ = "0.1.0"
