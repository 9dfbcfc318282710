"""The multilayer perceptron: its parameters, the forward and the backward pass."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lockstep.arrays import Array
from lockstep.nn.functional import ACTIVATIONS
from lockstep.nn.losses import LOSSES
from lockstep.nn.normalization import BatchNormalization, LayerNormalization, Normalization, fold


@dataclass(frozen=True)
class MLP:
    """The shape of a network; the parameters live in one flat vector outside it.

    The vector holds what is trained, layer by layer, and then the running statistics of batch
    normalization, if there is any: a row of means and a row of variances for each hidden layer.

    Parameters
    ----------
    widths : tuple of int
        Units per layer, from the inputs to the classes: (784, 64, 10).
    activation : str
        Of the hidden layers, a key of `ACTIVATIONS`.
    loss : str
        Output layer and loss, a key of `LOSSES`.
    normalization : str
        Of the hidden layers' pre-activations: "none", "batch" or "layer".
    """

    widths: tuple[int, ...]
    activation: str
    loss: str
    normalization: str = "none"

    @property
    def layer_shapes(self) -> list[tuple[int, int]]:
        """(num_rows, fan_out) of each layer: a row of weights per input, its bias, and its gain.

        Only hidden layers with normalization have a gain.
        """
        num_more = [1 + (self.normalization != "none")] * self.num_hidden + [1]
        return [
            (fan_in + more, fan_out)
            for (fan_in, fan_out), more in zip(pairwise(self.widths), num_more, strict=True)
        ]

    @property
    def num_hidden(self) -> int:
        """Number of hidden layers."""
        return len(self.widths) - 2

    @property
    def layer_slices(self) -> list[slice]:
        """Where each layer lies in the flat parameter vector."""
        ends = list(accumulate(rows * columns for rows, columns in self.layer_shapes))
        return [slice(start, end) for start, end in pairwise([0, *ends])]

    @property
    def weight_slices(self) -> list[slice]:
        """Where each layer's weights, without bias and gain, lie in the flat parameter vector."""
        return [
            slice(layer.start, layer.start + fan_in * fan_out)
            for layer, (fan_in, fan_out) in zip(
                self.layer_slices, pairwise(self.widths), strict=True
            )
        ]

    @property
    def num_trainable(self) -> int:
        """Number of weights, biases and gains, which come first in the flat parameter vector."""
        return sum(rows * columns for rows, columns in self.layer_shapes)

    @property
    def num_statistics(self) -> int:
        """Number of running means and variances."""
        return 2 * sum(self.widths[1:-1]) * (self.normalization == "batch")

    @property
    def num_parameters(self) -> int:
        """Length of the flat parameter vector."""
        return self.num_trainable + self.num_statistics

    def layers(self, parameters: Array) -> list[Array]:
        """View a flat parameter vector as one matrix per layer, of `layer_shapes`."""
        return [
            parameters[where].reshape(shape)
            for where, shape in zip(self.layer_slices, self.layer_shapes, strict=True)
        ]

    def statistics(self, parameters: Array) -> list[Array]:
        """View the running statistics as one (2, width) matrix per hidden layer, if there are any.

        The vector may be any that ends with them.
        """
        if not self.num_statistics:
            return []
        widths = self.widths[1:-1]
        ends = np.cumsum([2 * width for width in widths])[:-1]
        parts = np.split(parameters[-self.num_statistics :], ends)
        return [part.reshape(2, width) for part, width in zip(parts, widths, strict=True)]

    @property
    def evaluated(self) -> "MLP":
        """The network that is evaluated in place of this one: without batch normalization."""
        is_folded = self.normalization == "batch"
        return replace(self, normalization="none") if is_folded else self

    def evaluated_layers(self, parameters: Array) -> list[Array]:
        """Return the layers of `evaluated`, with batch normalization folded into them."""
        *hidden, last = self.layers(parameters)
        if self.normalization == "batch":
            hidden = list(map(fold, hidden, self.statistics(parameters)))
        return [*hidden, last]

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
    masks : sequence of ndarray (num_virtual_ranks, num_samples, width + 1) or None
        What the inputs and each hidden layer's activations are multiplied by: see `Dropout`.
        Empty or None where that is nothing.
    label_smoothing : float
        Part of each label that is spread evenly over all classes (C. Szegedy et al., "Rethinking
        the Inception Architecture for Computer Vision", CVPR (2016), section 7).

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
        self,
        network: MLP,
        num_virtual_ranks: int,
        num_samples: int,
        dtype: DTypeLike,
        masks: Sequence[Array | None] = (),
        label_smoothing: float = 0.0,
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

        self._label_smoothing = label_smoothing

        # Inputs of each layer with the bias's column of ones: the batch, and the activations of
        # the hidden layers. What is done element by element is done on the ones too, for whole
        # arrays are faster than views without their last column. Then the ones are restored, and
        # in the deltas the column is left out.
        self.activations = [buffer(num_samples, width + 1) for width in hidden]
        self._input_mask, *self._masks = masks or [None] * (1 + len(hidden))
        self._layer_inputs = [self.rows]
        for a, mask in zip(self.activations, self._masks, strict=True):
            self._layer_inputs.append(a if mask is None else np.ones_like(a))
        # Normalized layers need no ones, for their bias comes after the normalization.
        own = slice(None) if network.normalization == "none" else slice(-1)
        *lower, last = self._layer_inputs
        self._factors = [*(layer[:, :, own] for layer in lower), last]
        self._transposed_factors = [factor.transpose(0, 2, 1) for factor in self._factors]
        # Of batch normalization only.
        num_shares = num_samples if network.normalization == "batch" else 0
        self._shares = np.empty((num_virtual_ranks, 1, num_shares), dtype)
        self._normalizations = [
            _normalization(network, (num_virtual_ranks, num_samples, width), self._shares)
            for width in hidden
        ] + [None]
        self._ones = [a[:, :, -1] for a in self.activations]
        self._pre_activations = [
            np.ones_like(a) if self._activation.keeps_input else a for a in self.activations
        ]
        self._products = [z[:, :, :-1] for z in self._pre_activations]
        self._scratch = [np.ones_like(a) for a in self.activations]
        # The columns that nothing is written to stay 0, whatever they are multiplied by.
        self._hidden_deltas = [np.zeros_like(a) for a in self.activations]
        self.outputs = buffer(classes, num_samples)
        self._output_delta = buffer(classes, num_samples)
        self._output_scratch = buffer(classes, num_samples)
        self._deltas = [delta[:, :, :-1] for delta in self._hidden_deltas]
        self._deltas_below = [delta[:, :, own] for delta in self._hidden_deltas[:-1]]
        self._deltas_below += self._hidden_deltas[-1:]
        self._deltas.append(self._output_delta.transpose(0, 2, 1))
        self._losses = buffer(1, num_samples)
        self.losses = self._losses[:, 0]

    def drop_inputs(self) -> None:
        """Apply the mask of the inputs, once, after they have been filled."""
        if self._input_mask is not None:
            np.multiply(self.rows, self._input_mask, out=self.rows)

    def forward(self, layers: Sequence[Array]) -> None:
        """Compute the last layer's pre-activations of the samples in `inputs`.

        z = a W for every layer, where a ends with a column of ones and W with the bias; normalized
        layers add their bias later.
        """
        for index, layer in enumerate(layers[:-1]):
            z, normalization = self._products[index], self._normalizations[index]
            if normalization is None:
                np.matmul(self._factors[index], layer, out=z)
            else:
                np.matmul(self._factors[index], layer[:-2], out=z)
                normalization.forward(z, layer[-1], layer[-2], self._scratch[index][:, :, :-1])
            a, mask = self.activations[index], self._masks[index]
            self._activation.apply(self._pre_activations[index], a, self._scratch[index])
            self._ones[index].fill(1)
            if mask is not None:
                np.multiply(a, mask, out=self._layer_inputs[index + 1])
        np.matmul(layers[-1].T, self._transposed_factors[-1], out=self.outputs)

    def predict(self, layers: Sequence[Array]) -> None:
        """Compute the `outputs` of the samples in `inputs`."""
        self.forward(layers)
        self._loss.output(self.outputs)

    def evaluate(self, layers: Sequence[Array], used: NDArray[np.bool_] | None = None) -> None:
        """Compute the `outputs` and `losses` of the samples in `inputs` and `labels`.

        Parameters
        ----------
        layers : sequence of ndarray, each (num_rows, fan_out)
            The parameters.
        used : ndarray of bool (num_virtual_ranks, num_samples), optional
            False for the padding of a short batch, which batch normalization leaves out.
        """
        self._set_shares(used)
        self.forward(layers)
        np.equal(self._classes, self._label_rows, out=self._target)
        if self._label_smoothing:
            np.multiply(self._target, 1.0 - self._label_smoothing, out=self._target)
            np.add(self._target, self._label_smoothing / len(self._classes), out=self._target)
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
        layers : sequence of ndarray, each (num_rows, fan_out)
            The parameters that `evaluate` was called with.
        gradients : sequence of ndarray, each (num_virtual_ranks, num_rows, fan_out)
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
            delta, weights, gradient = self._deltas[index], layers[index], gradients[index]
            normalization = self._normalizations[index]
            if normalization is not None:
                gain, scratch = weights[-1], self._scratch[index][:, :, :-1]
                normalization.backward(delta, gain, gradient[:, -2:], scratch)
                weights, gradient = weights[:-2], gradient[:, :-2]
            np.matmul(self._transposed_factors[index], delta, out=gradient)
            yield index
            if index > 0:
                below = index - 1
                delta_below, mask = self._hidden_deltas[below], self._masks[below]
                np.matmul(delta, weights.T, out=self._deltas_below[below])
                if mask is not None:
                    np.multiply(delta_below, mask, out=delta_below)
                self._activation.backward(
                    delta_below,
                    self._pre_activations[below],
                    self.activations[below],
                    self._scratch[below],
                )

    def write_statistics(self, weights: Array, out: Array) -> None:
        """Write what batch normalization has to tell of the batch, after `evaluate`.

        Parameters
        ----------
        weights : ndarray (num_virtual_ranks, 1)
            Of each virtual rank: its part of all samples of the step.
        out : ndarray (num_virtual_ranks, num_statistics)
            Overwritten with the means and variances times the weights, so that they add up to those
            of the step. The variances are corrected by the number of samples (Ioffe and Szegedy
            2015, algorithm 2, step 10).
        """
        counts = np.count_nonzero(self._shares, axis=2, keepdims=True)
        corrections = counts / np.maximum(counts - 1, 1)
        start = 0
        for normalization in self._normalizations:
            if isinstance(normalization, BatchNormalization):
                for values in (normalization.means, normalization.variances * corrections):
                    stop = start + values.shape[-1]
                    np.multiply(values[:, 0], weights, out=out[:, start:stop])
                    start = stop

    def _set_shares(self, used: NDArray[np.bool_] | None) -> None:
        """Set each sample's part in the means of batch normalization."""
        if not self._shares.size:
            return
        if used is None:
            self._shares.fill(1.0 / self._shares.shape[-1])
        else:
            counts = np.count_nonzero(used, axis=1, keepdims=True)
            np.divide(used, np.maximum(counts, 1), out=self._shares[:, 0])


def _normalization(
    network: MLP, shape: tuple[int, int, int], shares: Array
) -> Normalization | None:
    """Return a layer's normalization in training; `shape` is that of its pre-activations."""
    if network.normalization == "batch":
        return BatchNormalization(*shape, shares, shares.dtype)
    if network.normalization == "layer":
        return LayerNormalization(*shape, shares.dtype)
    return None
