"""Run `lockstep ARGUMENTS...` with memory that fails on one rank after one step.

The first three arguments are the rank, the step and the index of the parameter.
"""

import sys

import numpy as np

from lockstep.__main__ import main
from lockstep.optim.optimizers import Optimizer
from lockstep.parallel.launch import launched_as

failing_rank, step, index = map(int, sys.argv[1:4])
del sys.argv[1:4]
apply = Optimizer.apply
updates = []


def apply_and_flip(optimizer, parameters, *arguments):
    apply(optimizer, parameters, *arguments)
    updates.append(None)
    if len(updates) == step:
        # What is trained is a part of the vector, and running statistics are behind it.
        vector = parameters if parameters.base is None else parameters.base
        # The lowest bit of the mantissa, which no loss would ever show.
        vector[index : index + 1].view(np.uint32)[0] ^= 1


if launched_as()[0] == failing_rank:
    Optimizer.apply = apply_and_flip
main()
