"""Optimizers and learning-rate schedules: they update flat arrays; NumPy only."""
