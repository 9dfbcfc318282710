"""The gradient of one step: every virtual rank's backward pass, added up as it goes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lockstep.arrays import Array
from lockstep.nn.mlp import MLP, Workspace
from lockstep.parallel.communicator import Reduction

# The last parameter group of a reduction is not a layer: see `Notes`.
NOTES_SHAPE = (3,)


@dataclass(frozen=True)
class Notes:
    """What the ranks tell each other in every step; it travels with the gradient, at no cost.

    Parameters
    ----------
    loss : float
        Sum over the samples; of the step's, once the notes of all virtual ranks are added up.
    save : bool
        Whether a rank wants a checkpoint after this step.
    stop : bool
        Whether a rank wants to stop after this step.
    """

    loss: float
    save: bool
    stop: bool

    @classmethod
    def of_sum(cls, vector: Array) -> "Notes":
        """Read the notes of all virtual ranks at the end of a reduction's sum."""
        loss, save, stop = vector[-NOTES_SHAPE[0] :].tolist()
        return cls(loss, save > 0, stop > 0)


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
    """

    def __init__(self, network: MLP, parameters: Array, workspace: Workspace) -> None:
        self._layers = network.layers(parameters)
        self._workspace = workspace

    def __call__(
        self,
        reduction: Reduction,
        num_samples: int,
        used: NDArray[np.bool_] | None,
        *,
        save: bool = False,
        stop: bool = False,
    ) -> None:
        """Run the forward and the backward pass over the batch in the workspace.

        Parameters
        ----------
        reduction : Reduction
            Takes each layer's gradients as soon as they are complete, and the notes.
        num_samples : int
            Of this step, over all virtual ranks. Every sample's gradient is divided by it, so
            that the reduction's sum is the mean: a sum is never divided twice, and a mean of
            means never taken.
        used : ndarray of bool (num_virtual_ranks, local batch size) or None
            False for padding; None when there is none.
        save, stop : bool
            This rank's wishes: see `Notes`.
        """
        self._workspace.evaluate(self._layers)
        *leaves, notes = reduction.leaves
        losses = self._workspace.losses
        if used is not None:
            np.multiply(losses, used, out=losses)
        np.add.reduce(losses, axis=1, out=notes[:, 0])
        notes[:, 1] = save
        notes[:, 2] = stop
        reduction.add(len(leaves))
        for layer in self._workspace.backward(self._layers, leaves, 1.0 / num_samples, used):
            reduction.add(layer)
