"""Lockstep: synchronous data-parallel SGD with the same bits on any number of MPI ranks."""

__version__ = "0.1.0"
