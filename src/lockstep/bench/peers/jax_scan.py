"""JAX: all steps between two looks at the result as one compiled loop."""

import os
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lockstep.arrays import Array
from lockstep.bench.peers.task import Samples, Task
from lockstep.config import Optimization

# Weights and biases by layer.
Parameters = list[tuple[jax.Array, jax.Array]]


class Scan:
    """Gradients by `jax.grad`, a hand-written update, and the steps of an epoch by `lax.scan`.

    The loop is compiled anew for every number of steps. It spares the call of each step: 0.048
    instead of 0.058 ms for 784-64-32-16-10 at batch 10; for larger networks there is no difference.

    Parameters
    ----------
    task : Task
        What to train.
    """

    def __init__(self, task: Task) -> None:
        _use_one_thread()
        self._task = task
        self._activation = task.config.network.activation
        self._samples = jnp.asarray(task.samples.x), jnp.asarray(task.samples.y, jnp.int32)
        # Copies, for JAX writes the new parameters over the old ones.
        parameters = [
            (jnp.array(layer[:-1]), jnp.array(layer[-1])) for layer in task.initial_layers()
        ]
        self._state = parameters, _initial_moments(task.config.optimization, parameters)

    def train(self, num_steps: int) -> None:
        """See `Training`."""
        task, options = self._task, self._task.config.optimization
        for epoch in task.batches(num_steps):
            rows, last_step = epoch.astype(np.int32), task.schedule.num_steps
            self._state = _run(
                self._state, self._samples, rows, last_step, self._activation, options
            )
        jax.block_until_ready(self._state)

    def layers(self) -> list[Array]:
        """See `Training`."""
        return [np.vstack([weight, bias]) for weight, bias in self._state[0]]

    def num_correct(self, samples: Samples) -> int:
        """See `Training`."""
        predicted = _predict(self._state[0], samples.x, self._activation)
        return int(np.count_nonzero(np.asarray(predicted) == samples.y))


def _use_one_thread() -> None:
    """Keep JAX from starting more threads than one, if it has not begun to compute yet."""
    os.environ.setdefault("NPROC", "1")
    flag = "--xla_cpu_multi_thread_eigen=false"
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()


# Any: parameters with the moments of the optimizer, which are different for each.
@partial(jax.jit, static_argnums=(4, 5), donate_argnums=0)
def _run(
    state: Any,  # noqa: ANN401
    samples: tuple[jax.Array, jax.Array],
    epoch: jax.Array,
    last_step: int,
    activation: str,
    options: Optimization,
) -> Any:  # noqa: ANN401
    """Return the state after the steps of an epoch."""
    x, y = samples

    def step(state: Any, rows: jax.Array) -> tuple[Any, None]:  # noqa: ANN401
        parameters, moments = state
        gradients = jax.grad(_loss)(parameters, x[rows], y[rows], activation)
        return _updated(options, last_step, parameters, gradients, moments), None

    return jax.lax.scan(step, state, epoch)[0]


@partial(jax.jit, static_argnums=2)
def _predict(parameters: Parameters, x: jax.Array, activation: str) -> jax.Array:
    return _scores(parameters, x, activation).argmax(1)


def _loss(parameters: Parameters, x: jax.Array, y: jax.Array, activation: str) -> jax.Array:
    logarithms = jax.nn.log_softmax(_scores(parameters, x, activation))
    return -jnp.take_along_axis(logarithms, y[:, jnp.newaxis], axis=1).mean()


def _scores(parameters: Parameters, x: jax.Array, activation: str) -> jax.Array:
    activate = jax.nn.sigmoid if activation == "sigmoid" else jax.nn.relu
    for weight, bias in parameters[:-1]:
        x = activate(x @ weight + bias)
    weight, bias = parameters[-1]
    return x @ weight + bias


def _initial_moments(options: Optimization, parameters: Parameters) -> Any:  # noqa: ANN401
    """Return AdamW's step number and both moments; nothing for SGD."""
    if options.optimizer == "sgd":
        return ()
    first, second = (jax.tree.map(jnp.zeros_like, parameters) for _ in range(2))
    return jnp.zeros((), jnp.int32), first, second


def _updated(
    options: Optimization,
    last_step: int,
    parameters: Parameters,
    gradients: Parameters,
    moments: Any,  # noqa: ANN401
) -> tuple[Parameters, Any]:
    """Return parameters and moments after a step of SGD or AdamW."""
    rate, beta1, beta2 = options.learning_rate, options.beta1, options.beta2
    if options.optimizer == "sgd":
        return jax.tree.map(lambda p, g: p - rate * g, parameters, gradients), moments
    step, first, second = moments
    if options.schedule == "cosine":
        rate = rate * (1 + jnp.cos(jnp.pi * step / last_step)) / 2
    step = step + 1
    first = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, first, gradients)
    second = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, second, gradients)

    def move(p: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
        # Biases, which have one axis, don't decay.
        decay = options.weight_decay if p.ndim > 1 else 0.0
        direction = m / (1 - beta1**step) / (jnp.sqrt(v / (1 - beta2**step)) + options.epsilon)
        return p - rate * (direction + decay * p)

    return jax.tree.map(move, parameters, first, second), (step, first, second)
