"""Benchmarks: what parts of a training cost, and how long other libraries take for the same."""
