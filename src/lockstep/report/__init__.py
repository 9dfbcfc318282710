"""Plots, tables and the page of a run: reads a run folder, nothing else."""
