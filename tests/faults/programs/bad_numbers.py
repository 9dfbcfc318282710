"""Run `lockstep ARGUMENTS...` with numbers that go bad, on whatever rank has a virtual rank.

The first argument says which numbers: "data", "gradient" or "parameters". The second lists the
steps in which they do, as EPOCH:STEP:VIRTUAL_RANK and separated by commas, where STEP is one of the
epoch, counted from 0. The third is a step after which the training stops, 0 for none.
"""

import sys

import numpy as np

from lockstep.__main__ import main
from lockstep.data.batches import Batches
from lockstep.nn.mlp import Workspace
from lockstep.train import requests
from lockstep.train.gradient import Backpropagation

where, places, stop_after = sys.argv[1], sys.argv[2], int(sys.argv[3])
del sys.argv[1:4]
BAD = [tuple(map(int, place.split(":"))) for place in places.split(",")]

make, shuffle, fill = Backpropagation.__init__, Batches.shuffle, Batches.fill
backward, ask = Workspace.backward, requests.Requests.__init__
# Of the training: its passes, its epoch, and which of the rank's virtual ranks is bad now.
now = {"layers": [], "workspace": None, "epoch": 0, "bad": []}


def make_and_keep(passes, network, parameters, workspace, *others):
    make(passes, network, parameters, workspace, *others)
    now["layers"], now["workspace"] = network.layers(parameters), workspace


def shuffle_and_count(batches, seed, epoch):
    now["epoch"] = epoch
    shuffle(batches, seed, epoch)


def fill_and_spoil(batches, step, rows, labels):
    fill(batches, step, rows, labels)
    if now["workspace"] is None or rows is not now["workspace"].rows:
        return  # of an evaluation
    now["bad"] = [
        batches.virtual_ranks.index(virtual_rank)
        for epoch, bad_step, virtual_rank in BAD
        if (epoch, bad_step) == (now["epoch"], step) and virtual_rank in batches.virtual_ranks
    ]
    for own in now["bad"]:
        if where == "data":
            rows[own, 0, 5] = np.nan
        elif where == "parameters":
            now["layers"][1][3, 2] = np.inf


def backward_and_spoil(workspace, layers, gradients, factor, used=None):
    for layer in backward(workspace, layers, gradients, factor, used):
        yield layer
        if where == "gradient" and workspace is now["workspace"] and layer == len(layers) - 1:
            for own in now["bad"]:
                # The error that goes on to the layers below; the loss has been told already.
                workspace._output_delta[own] = np.nan  # noqa: SLF001 - a fault inside it


def ask_to_stop(asked, stop_after=stop_after or None):
    ask(asked, stop_after)


Backpropagation.__init__ = make_and_keep
Batches.shuffle, Batches.fill = shuffle_and_count, fill_and_spoil
Workspace.backward = backward_and_spoil
requests.Requests.__init__ = ask_to_stop
main()
