"""A plain NumPy loop over the samples, as in the recognizer that many have started from."""

import numpy as np

from lockstep.arrays import Array
from lockstep.bench.peers.peer import UnavailableError
from lockstep.bench.peers.task import Samples, Task

# Of a step, parameters times samples: that is some seconds.
_MOST_WORK = 2_000_000_000


class PerSample:
    """Back-propagates column vectors one by one and adds up their gradients.

    After M. Nielsen, "Neural Networks and Deep Learning" (2015), chapter 1, `network.py`: lists of
    weights and biases, and new arrays in every operation. Only the output layer is another one
    (softmax with cross-entropy), and the hidden activation as asked for.

    Parameters
    ----------
    task : Task
        What to train, with SGD.

    Raises
    ------
    UnavailableError
        When a step would take too long to be worth the wait.
    """

    def __init__(self, task: Task) -> None:
        config = task.config
        if config.training.global_batch_size * task.network.num_parameters > _MOST_WORK:
            raise UnavailableError(
                f"a step of {task.network} would take too long, sample by sample"
            )
        layers = task.initial_layers()
        self._weights = [layer[:-1].T.copy() for layer in layers]
        self._biases = [layer[-1][:, np.newaxis].copy() for layer in layers]
        self._is_sigmoid = config.network.activation == "sigmoid"
        self._learning_rate = config.optimization.learning_rate
        self._task = task
        self._inputs = [row[:, np.newaxis] for row in task.samples.x]
        classes = np.eye(task.network.widths[-1], dtype=np.float32)[:, :, np.newaxis]
        self._targets = [classes[label] for label in task.samples.y]

    def train(self, num_steps: int) -> None:
        """See `Training`."""
        for epoch in self._task.batches(num_steps):
            for batch in epoch:
                self._update(batch.tolist())

    def _update(self, batch: list[int]) -> None:
        """Take one step with the mean gradient of a batch."""
        weight_sums = [np.zeros(weight.shape, weight.dtype) for weight in self._weights]
        bias_sums = [np.zeros(bias.shape, bias.dtype) for bias in self._biases]
        for row in batch:
            weight_gradients, bias_gradients = self._backpropagate(
                self._inputs[row], self._targets[row]
            )
            weight_sums = [a + b for a, b in zip(weight_sums, weight_gradients, strict=True)]
            bias_sums = [a + b for a, b in zip(bias_sums, bias_gradients, strict=True)]
        factor = self._learning_rate / len(batch)
        self._weights = [a - factor * b for a, b in zip(self._weights, weight_sums, strict=True)]
        self._biases = [a - factor * b for a, b in zip(self._biases, bias_sums, strict=True)]

    def _backpropagate(self, x: Array, target: Array) -> tuple[list[Array], list[Array]]:
        """Return the gradients of one sample's loss by weights and biases."""
        activations, pre_activations = [x], []
        for weight, bias in zip(self._weights, self._biases, strict=True):
            pre_activations.append(np.dot(weight, activations[-1]) + bias)
            activations.append(self._activate(pre_activations[-1]))
        exponentials = np.exp(pre_activations[-1] - pre_activations[-1].max())
        delta = exponentials / exponentials.sum() - target
        weight_gradients = [np.dot(delta, activations[-2].T)]
        bias_gradients = [delta]
        for index in range(len(self._weights) - 2, -1, -1):
            delta = np.dot(self._weights[index + 1].T, delta) * self._slope(pre_activations[index])
            weight_gradients.insert(0, np.dot(delta, activations[index].T))
            bias_gradients.insert(0, delta)
        return weight_gradients, bias_gradients

    def _activate(self, z: Array) -> Array:
        activation: Array = 1.0 / (1.0 + np.exp(-z)) if self._is_sigmoid else np.maximum(z, 0)
        return activation

    def _slope(self, z: Array) -> Array:
        slope: Array = self._activate(z) * (1 - self._activate(z)) if self._is_sigmoid else z > 0
        return slope

    def layers(self) -> list[Array]:
        """See `Training`."""
        pairs = zip(self._weights, self._biases, strict=True)
        return [np.vstack([weight.T, bias.T]) for weight, bias in pairs]

    def num_correct(self, samples: Samples) -> int:
        """See `Training`."""
        return sum(
            int(self._scores(row[:, np.newaxis]).argmax()) == label
            for row, label in zip(samples.x, samples.y.tolist(), strict=True)
        )

    def _scores(self, a: Array) -> Array:
        for weight, bias in zip(self._weights[:-1], self._biases[:-1], strict=True):
            a = self._activate(np.dot(weight, a) + bias)
        scores: Array = np.dot(self._weights[-1], a) + self._biases[-1]
        return scores
