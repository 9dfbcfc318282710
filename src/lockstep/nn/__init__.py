"""Multilayer perceptrons in NumPy: arrays in, arrays out.

Every array has the virtual rank as its first axis, and below it one column per sample:
activations are (virtual ranks, features, samples). Products are stacks of matrix products, one
per virtual rank, so that a virtual rank's result does not depend on how many others the same
process runs.
"""
