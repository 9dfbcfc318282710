"""The gradient of one step: every virtual rank's backward pass, added up as it goes."""

import numpy as np
from numpy.typing import NDArray

from lockstep.arrays import Array
from lockstep.nn.mlp import MLP, Workspace
from lockstep.parallel.communicator import Reduction


class Backpropagation:
    """Computes the gradients of a rank's virtual ranks and hands them to the reduction.

    Parameters
    ----------
    network : MLP
        What to differentiate.
    parameters : ndarray (num_parameters,)
        The replica; updates to it are seen.
    workspace : Workspace
        Holds the batch.
    reduction : Reduction
        Takes each layer's gradients as soon as they are complete.
    """

    def __init__(
        self, network: MLP, parameters: Array, workspace: Workspace, reduction: Reduction
    ) -> None:
        self._layers = network.layers(parameters)
        self._workspace = workspace
        self._reduction = reduction

    def __call__(self, num_samples: int, used: NDArray[np.bool_] | None) -> None:
        """Run the forward and the backward pass over the batch in the workspace.

        Parameters
        ----------
        num_samples : int
            Of this step, over all virtual ranks. Every sample's gradient is divided by it, so
            that the reduction's sum is the mean: a sum is never divided twice, and a mean of
            means never taken.
        used : ndarray of bool (num_virtual_ranks, local batch size) or None
            False for padding; None when there is none.
        """
        self._workspace.evaluate(self._layers)
        leaves = self._reduction.leaves
        for layer in self._workspace.backward(self._layers, leaves, 1.0 / num_samples, used):
            self._reduction.add(layer)
