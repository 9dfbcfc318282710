"""A step in the steady state makes no arrays: all of its buffers are there already."""

import tracemalloc

import numpy as np
import pytest

from lockstep.bench.made_up import made_up_dataset
from lockstep.config import Config, Network, Optimization, Training
from lockstep.optim.norms import NORM_BLOCK_SIZE
from lockstep.parallel.single import SingleProcess
from lockstep.train.observers import Observer
from lockstep.train.requests import Requests
from lockstep.train.run import resolve
from lockstep.train.trainer import Trainer

WARM_UP, WATCHED = 10, 100
# NumPy's own, for operands that have to be cast or broadcast: so many numbers at once, two operands
# of four bytes and a truth value, freed after the operation. The step's arrays are larger, but for
# those of one number for each sample.
NUMPY_BUFFERS_BYTES = (4 + 4 + 1) * np.getbufsize() + 2048
GLOBAL_BATCH_SIZE, CLASSES = 2048, 10
FEW_BYTES = 200


class Watch(Observer):
    """Takes what each step allocates at its highest, and what it leaves behind."""

    def __init__(self):
        self.num_steps = 0
        self.at_start = 0
        self.peaks = []
        self.left = []

    def step_done(self):
        self.num_steps += 1
        if self.num_steps <= WARM_UP:
            return
        if not tracemalloc.is_tracing():
            tracemalloc.start()
        else:
            now, peak = tracemalloc.get_traced_memory()
            self.peaks.append(peak - self.at_start)
            self.left.append(now - self.at_start)
        tracemalloc.reset_peak()
        self.at_start, _ = tracemalloc.get_traced_memory()


@pytest.fixture(autouse=True)
def stop_tracing():
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("virtual_ranks", [1, 4])
@pytest.mark.parametrize(
    ("optimizer", "loss", "activation"),
    [
        *(
            (optimizer, loss, activation)
            for optimizer, loss in [
                ("sgd", "quadratic"), ("nesterov", "cross_entropy"), ("adamw", "cross_entropy")
            ]
            for activation in ("sigmoid", "tanh", "relu", "leaky_relu", "gelu")
        ),
        ("lars", "cross_entropy", "relu"),
        ("lamb", "cross_entropy", "relu"),
    ],
)  # fmt: skip
def test_no_array_is_made_in_a_hundred_steps(virtual_ranks, activation, optimizer, loss):
    assert GLOBAL_BATCH_SIZE * CLASSES * 4 > NUMPY_BUFFERS_BYTES
    config = Config(
        network=Network(hidden_widths=(12,), activation=activation, loss=loss),
        optimization=Optimization(optimizer=optimizer, schedule="constant", l2=1e-4),
        training=Training(
            epochs=1_000,
            global_batch_size=GLOBAL_BATCH_SIZE,
            virtual_ranks=virtual_ranks,
            checkpoint_every_minutes=0,
        ),
    )
    watch = Watch()
    with made_up_dataset() as dataset:
        requests = Requests(stop_after=WARM_UP + 1 + WATCHED)
        Trainer(resolve(config, 1), dataset, SingleProcess(), watch, requests).train()
        steps_per_epoch = dataset.info.num_samples["train"] // GLOBAL_BATCH_SIZE
    # The first step of an epoch comes after its shuffle, and after evaluation and save.
    within = [i for i in range(WATCHED) if (WARM_UP + 1 + i) % steps_per_epoch]
    assert len(within) > WATCHED / 2
    # Norms square a block of the weights in float64, here all of the first layer's.
    norm_bytes = 8 * min(NORM_BLOCK_SIZE, 784 * 12) if optimizer in {"lars", "lamb"} else 0
    assert max(watch.peaks[i] for i in within) < NUMPY_BUFFERS_BYTES + norm_bytes
    assert sum(watch.left[i] for i in within) < FEW_BYTES * len(within)
