"""The gradient of one step: every virtual rank's backward pass, added up as it goes."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lockstep.arrays import Array
from lockstep.nn.dropout import Dropout
from lockstep.nn.mlp import MLP, Workspace
from lockstep.parallel.communicator import Reduction
from lockstep.train.steps import Part

# The last parameter group of a reduction is not a layer: see `Notes`.
NOTES_SHAPE = (3,)
SAMPLES = "the samples"


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
    is_finite : bool
        Whether loss and gradient are, as far as can be seen at no cost: see `of_sum`.
    """

    loss: float
    save: bool
    stop: bool
    is_finite: bool

    @classmethod
    def of_sum(cls, vector: Array) -> "Notes":
        """Read the notes of all virtual ranks at the end of a reduction's sum.

        One number of the first layer is looked at for the whole backward pass: what is not finite
        in it makes everything below so, whatever it is multiplied by. To look at all of them would
        take between 0.2 and 5 percent of a step. The little that is not seen here is in the next
        step's loss, and parameters are looked at before they are saved.
        """
        loss, save, stop = vector[-NOTES_SHAPE[0] :].tolist()
        is_finite = math.isfinite(loss) and math.isfinite(vector.item(0))
        return cls(loss, save > 0, stop > 0, is_finite)


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
    dropout : Dropout, optional
        Draws the masks that the workspace uses.
    """

    def __init__(
        self,
        network: MLP,
        parameters: Array,
        workspace: Workspace,
        dropout: Dropout | None = None,
    ) -> None:
        self._network = network
        self._layers = network.layers(parameters)
        self._workspace = workspace
        self._dropout = dropout
        # Of the parts of a step that came before, where it has several: by parameter group.
        self._sums: list[Array] = []

    def __call__(
        self,
        reduction: Reduction,
        num_samples: int,
        used: NDArray[np.bool_] | None,
        part: Part,
        *,
        save: bool = False,
        stop: bool = False,
    ) -> None:
        """Run the forward and the backward pass over the batch in the workspace.

        Parameters
        ----------
        reduction : Reduction
            Takes each layer's gradients as soon as they are complete, and the notes, in the last
            part of the step.
        num_samples : int
            Of this step, over all virtual ranks. Every sample's gradient is divided by it, so
            that the reduction's sum is the mean: a sum is never divided twice, and a mean of
            means never taken.
        used : ndarray of bool (num_virtual_ranks, local batch size) or None
            False for padding; None when there is none.
        part : Part
            Which one of the step.
        save, stop : bool
            This rank's wishes: see `Notes`.
        """
        self._evaluate(used, part)
        notes = reduction.leaves[-1]
        losses = self._workspace.losses
        if used is not None:
            np.multiply(losses, used, out=losses)
        np.add.reduce(losses, axis=1, out=notes[:, 0])
        notes[:, 1] = save
        notes[:, 2] = stop
        last_group = len(reduction.leaves) - 1
        self._add(reduction, last_group, part)
        if self._network.num_statistics:
            self._write_statistics(reduction.leaves[last_group - 1], num_samples, used)
            self._add(reduction, last_group - 1, part)
        leaves = reduction.leaves[: len(self._layers)]
        for layer in self._workspace.backward(self._layers, leaves, 1.0 / num_samples, used):
            self._add(reduction, layer, part)

    def _evaluate(self, used: NDArray[np.bool_] | None, part: Part) -> None:
        if self._dropout is not None:
            self._dropout.draw(part.number)
            self._workspace.drop_inputs()
        self._workspace.evaluate(self._layers, used)

    def _write_statistics(
        self, leaves: Array, num_samples: int, used: NDArray[np.bool_] | None
    ) -> None:
        num_virtual_ranks, local_batch_size = self._workspace.labels.shape
        counts = np.full((num_virtual_ranks, 1), local_batch_size)
        if used is not None:
            counts = np.count_nonzero(used, axis=1, keepdims=True)
        self._workspace.write_statistics(counts / num_samples, leaves)

    def _add(self, reduction: Reduction, group: int, part: Part) -> None:
        """Add up a parameter group over the parts of the step; the last one goes on with it.

        Each virtual rank's parts are added in their order, so the sum's bits don't depend on where
        it runs.
        """
        leaves = reduction.leaves[group]
        if not part.is_first:
            np.add(self._sums[group], leaves, out=leaves)
        if part.is_last:
            reduction.add(group)
            return
        if not self._sums:
            self._sums = [np.empty_like(each) for each in reduction.leaves]
        np.copyto(self._sums[group], leaves)

    def stages(
        self, reduction: Reduction, num_samples: int, used: NDArray[np.bool_] | None, part: Part
    ) -> Iterator[tuple[str, Array]]:
        """Compute the same once more and look at it; nothing is handed to the reduction.

        Parameters
        ----------
        reduction, num_samples, used, part
            As for the call, and the batch is in the workspace again. The reduction's leaves are
            overwritten.

        Yields
        ------
        str
            What has been computed, for people.
        ndarray (num_virtual_ranks, ...)
            Its numbers, valid until the next ones.
        """
        leaves = reduction.leaves[: len(self._layers)]
        workspace = self._workspace
        yield SAMPLES, workspace.inputs
        for number, layer in enumerate(self._layers, 1):
            values = np.broadcast_to(layer, (len(workspace.inputs), *layer.shape))
            yield f"the parameters of layer {number}", values
        self._evaluate(used, part)
        for number, activations in enumerate(workspace.activations, 1):
            yield f"the activations of layer {number}", activations
        yield "the outputs", workspace.outputs
        yield "the losses", workspace.losses
        for index in workspace.backward(self._layers, leaves, 1.0 / num_samples, used):
            yield f"the gradient of layer {index + 1}", leaves[index]


def reduced_shapes(network: MLP) -> list[tuple[int, ...]]:
    """Return the parameter groups of a step's reduction.

    They are the layers, the statistics of batch normalization if there is any, and the notes, so
    that the vector is laid out as the parameters are, with the notes behind them.
    """
    statistics = [(network.num_statistics,)] if network.num_statistics else []
    return [*network.layer_shapes, *statistics, NOTES_SHAPE]
