"""Benchmarks: what parts of a training cost, measured on the training loop itself."""
