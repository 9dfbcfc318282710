"""The multilayer perceptron: its parameters, the forward and the backward pass."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lockstep.arrays import Array
from lockstep.nn.functional import ACTIVATIONS
from lockstep.nn.losses import LOSSES


@dataclass(frozen=True)
class MLP:
    """The shape of a network; the parameters live in one flat vector outside it.

    Parameters
    ----------
    widths : tuple of int
        Units per layer, from the inputs to the classes: (784, 64, 10).
    activation : str
        Of the hidden layers, a key of `ACTIVATIONS`.
    loss : str
        Output layer and loss, a key of `LOSSES`.
    """

    widths: tuple[int, ...]
    activation: str
    loss: str

    @property
    def layer_shapes(self) -> list[tuple[int, int]]:
        """(fan_in + 1, fan_out) of each layer: its weights, and its bias as the last row."""
        return [(fan_in + 1, fan_out) for fan_in, fan_out in pairwise(self.widths)]

    @property
    def layer_slices(self) -> list[slice]:
        """Where each layer lies in the flat parameter vector."""
        ends = list(accumulate(rows * columns for rows, columns in self.layer_shapes))
        return [slice(start, end) for start, end in pairwise([0, *ends])]

    @property
    def weight_slices(self) -> list[slice]:
        """Where each layer's weights, without its bias, lie in the flat parameter vector."""
        return [
            slice(layer.start, layer.stop - columns)
            for layer, (_, columns) in zip(self.layer_slices, self.layer_shapes, strict=True)
        ]

    @property
    def num_parameters(self) -> int:
        """Number of weights and biases."""
        return sum(rows * columns for rows, columns in self.layer_shapes)

    def layers(self, parameters: Array) -> list[Array]:
        """View a flat parameter vector as one (fan_in + 1, fan_out) matrix per layer."""
        return [
            parameters[where].reshape(shape)
            for where, shape in zip(self.layer_slices, self.layer_shapes, strict=True)
        ]

    def __str__(self) -> str:
        return "-".join(map(str, self.widths))


class Workspace:
    """The buffers of one forward and backward pass, made once and used for every step.

    The caller fills `inputs` and `labels`, then calls `forward`, `evaluate` and `backward`.

    Activations have a row per sample, the network's outputs a column per sample: the products
    are fastest so, and so are sums over the few classes.

    Parameters
    ----------
    network : MLP
        What to compute.
    num_virtual_ranks : int
        How many virtual ranks this process runs side by side.
    num_samples : int
        Rows per virtual rank. Shorter batches are padded: see `backward`.
    dtype : dtype
        float32 or float64.

    Attributes
    ----------
    rows : ndarray (num_virtual_ranks, num_samples, features + 1)
        The inputs with a last column of ones, contiguous.
    inputs : ndarray (num_virtual_ranks, num_samples, features)
        The same without the ones. To be filled, a row per sample.
    labels : ndarray of int32 (num_virtual_ranks, num_samples)
        To be filled.
    outputs : ndarray (num_virtual_ranks, classes, num_samples)
        After `evaluate` or `predict`.
    losses : ndarray (num_virtual_ranks, num_samples)
        Of each sample, after `evaluate`.
    activations : list of ndarray, each (num_virtual_ranks, num_samples, width + 1)
        Of each hidden layer, with a last column of ones; after `forward` and until `backward`.
    """

    def __init__(
        self, network: MLP, num_virtual_ranks: int, num_samples: int, dtype: DTypeLike
    ) -> None:
        def buffer(*shape: int, kind: DTypeLike = dtype) -> Array:
            # Ones everywhere: the columns that stand for the bias's input stay so.
            return np.ones((num_virtual_ranks, *shape), kind)

        self._activation = ACTIVATIONS[network.activation]
        self._loss = LOSSES[network.loss]
        features, *hidden, classes = network.widths
        self.rows = buffer(num_samples, features + 1)
        self.inputs = self.rows[:, :, :-1]
        self.labels: NDArray[np.int32] = buffer(num_samples, kind=np.int32)
        self._label_rows = self.labels[:, np.newaxis, :]
        self._classes = np.arange(classes, dtype=np.int32)[:, np.newaxis]
        self._target = buffer(classes, num_samples)

        # Inputs of each layer with the bias's column of ones: the batch, and the activations of
        # the hidden layers. What is done element by element is done on the ones too, for whole
        # arrays are faster than views without their last column. Then the ones are restored, and
        # in the deltas the column is left out.
        self._layer_inputs = [self.rows, *(buffer(num_samples, width + 1) for width in hidden)]
        self._transposed_inputs = [layer.transpose(0, 2, 1) for layer in self._layer_inputs]
        self.activations = self._layer_inputs[1:]
        self._ones = [a[:, :, -1] for a in self.activations]
        self._pre_activations = [
            np.ones_like(a) if self._activation.keeps_input else a for a in self.activations
        ]
        self._products = [z[:, :, :-1] for z in self._pre_activations]
        self._scratch = [np.ones_like(a) for a in self.activations]
        self._hidden_deltas = [np.ones_like(a) for a in self.activations]
        self.outputs = buffer(classes, num_samples)
        self._output_delta = buffer(classes, num_samples)
        self._output_scratch = buffer(classes, num_samples)
        self._deltas = [delta[:, :, :-1] for delta in self._hidden_deltas]
        self._deltas.append(self._output_delta.transpose(0, 2, 1))
        self._losses = buffer(1, num_samples)
        self.losses = self._losses[:, 0]

    def forward(self, layers: Sequence[Array]) -> None:
        """Compute the last layer's pre-activations of the samples in `inputs`.

        z = a W for every layer, where a ends with a column of ones and W with the bias.
        """
        for index, layer in enumerate(layers[:-1]):
            np.matmul(self._layer_inputs[index], layer, out=self._products[index])
            a = self.activations[index]
            self._activation.apply(self._pre_activations[index], a, self._scratch[index])
            self._ones[index].fill(1)
        np.matmul(layers[-1].T, self._transposed_inputs[-1], out=self.outputs)

    def predict(self, layers: Sequence[Array]) -> None:
        """Compute the `outputs` of the samples in `inputs`."""
        self.forward(layers)
        self._loss.output(self.outputs)

    def evaluate(self, layers: Sequence[Array]) -> None:
        """Compute the `outputs` and `losses` of the samples in `inputs` and `labels`."""
        self.forward(layers)
        np.equal(self._classes, self._label_rows, out=self._target)
        self._loss.evaluate(self.outputs, self._target, self._losses, self._output_scratch)

    def backward(
        self,
        layers: Sequence[Array],
        gradients: Sequence[Array],
        factor: float,
        used: NDArray[np.bool_] | None = None,
    ) -> Iterator[int]:
        """Back-propagate, from the last layer to the first, after `evaluate`.

        Parameters
        ----------
        layers : sequence of ndarray, each (fan_in + 1, fan_out)
            The parameters that `evaluate` was called with.
        gradients : sequence of ndarray, each (num_virtual_ranks, fan_in + 1, fan_out)
            Each virtual rank's gradient, summed over its samples, is written here. The entries
            may share memory if the caller is done with one layer before it asks for the next.
        factor : float
            Every sample's loss is multiplied by it: one over the number of samples in the
            whole step makes the sum over all virtual ranks the mean over all samples.
        used : ndarray of bool (num_virtual_ranks, num_samples), optional
            False for the padding of a short batch, whose gradients are exactly zero.

        Yields
        ------
        int
            The index of each layer as soon as its gradient is complete.

        References
        ----------
        D. E. Rumelhart, G. E. Hinton, R. J. Williams, "Learning representations by
        back-propagating errors", Nature 323 (1986); Nielsen 2015, equations BP1 to BP4.
        """
        delta = self._output_delta
        self._loss.delta(self.outputs, self._target, delta, self._output_scratch)
        np.multiply(delta, factor, out=delta)
        if used is not None:
            np.multiply(delta, used[:, np.newaxis, :], out=delta)
        for index in reversed(range(len(layers))):
            delta = self._deltas[index]
            np.matmul(self._transposed_inputs[index], delta, out=gradients[index])
            yield index
            if index > 0:
                below = index - 1
                delta_below = self._hidden_deltas[below]
                np.matmul(delta, layers[index].T, out=delta_below)
                self._activation.backward(
                    delta_below,
                    self._pre_activations[below],
                    self.activations[below],
                    self._scratch[below],
                )
