"""Checkpoints and run folders: paths and bytes, no ranks."""
