"""Losses and advantages as arithmetic: tensors in, per-token tensors out."""
