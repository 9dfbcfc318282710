"""scikit-learn's MLPClassifier."""

import numpy as np
from sklearn import config_context
from sklearn.neural_network import MLPClassifier

from lockstep.arrays import Array
from lockstep.bench.peers.task import Samples, Task


class _Started(MLPClassifier):  # type: ignore[misc]  # scikit-learn has no types
    """The classifier, beginning with given weights instead of its own random ones."""

    def begin_with(self, layers: list[Array]) -> None:
        """Take what the first `partial_fit` begins with."""
        self._given = iter(layers)

    def set_rate(self, learning_rate: float) -> None:
        """Change Adam's learning rate, for which there is no other way."""
        self._optimizer.learning_rate_init = learning_rate

    def _init_coef(self, *_: object) -> tuple[Array, Array]:
        layer = next(self._given)
        return layer[:-1].copy(), layer[-1].copy()


class Classifier:
    """`partial_fit`, which shuffles the rows it is given and trains one epoch on them.

    It knows Adam, but no AdamW: there is no weight decay. The learning rate stays the same within
    an epoch.

    Parameters
    ----------
    task : Task
        What to train. The orders are its own.
    """

    def __init__(self, task: Task) -> None:
        config, optimization = task.config, task.config.optimization
        self._samples = task.samples
        self._schedule = task.schedule
        self._num_steps_done = 0
        self._steps_per_epoch = task.steps_per_epoch
        self._global_batch_size = config.training.global_batch_size
        self._classes = np.arange(task.network.widths[-1])
        self._model = _Started(
            hidden_layer_sizes=config.network.hidden_widths,
            activation={"sigmoid": "logistic"}.get(config.network.activation, "relu"),
            solver="sgd" if optimization.optimizer == "sgd" else "adam",
            alpha=0.0,
            batch_size=self._global_batch_size,
            learning_rate="constant",
            learning_rate_init=optimization.learning_rate,
            momentum=0.0,
            nesterovs_momentum=False,
            beta_1=optimization.beta1,
            beta_2=optimization.beta2,
            epsilon=optimization.epsilon,
            # A number would give the same order again in every call.
            random_state=np.random.RandomState(config.training.seed),
        )
        self._model.begin_with(task.initial_layers())

    def train(self, num_steps: int) -> None:
        """See `Training`."""
        x, y = self._samples.x, self._samples.y
        # It need not look for infinite numbers in all the data every time.
        with config_context(assume_finite=True):
            while num_steps > 0:
                now = min(num_steps, self._steps_per_epoch)
                num_rows = now * self._global_batch_size
                if self._num_steps_done:
                    self._model.set_rate(self._schedule(self._num_steps_done))
                self._model.partial_fit(x[:num_rows], y[:num_rows], classes=self._classes)
                self._num_steps_done += now
                num_steps -= now

    def layers(self) -> list[Array]:
        """See `Training`."""
        pairs = zip(self._model.coefs_, self._model.intercepts_, strict=True)
        return [np.vstack([weight, bias]) for weight, bias in pairs]

    def num_correct(self, samples: Samples) -> int:
        """See `Training`."""
        with config_context(assume_finite=True):
            return int(np.count_nonzero(self._model.predict(samples.x) == samples.y))
