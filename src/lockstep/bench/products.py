"""The matrix products of a step and nothing else: how fast a step could be at best."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from time import perf_counter

import numpy as np

from lockstep.arrays import Array

# Seconds for which one way to do a product is tried, if one time takes less.
_TRIAL_S = 0.01


@dataclass(frozen=True)
class Shape:
    """A product of an (m, k) with a (k, n) matrix."""

    m: int
    k: int
    n: int

    @property
    def num_flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.m * self.k * self.n


def shapes_of_step(widths: Sequence[int], global_batch_size: int) -> Iterator[Shape]:
    """Yield the products of a step: forward, gradients by weights, gradients by inputs.

    The first layer needs no gradient by its inputs.
    """
    for index, (fan_in, fan_out) in enumerate(pairwise(widths)):
        yield Shape(global_batch_size, fan_in, fan_out)
        yield Shape(fan_in, global_batch_size, fan_out)
        if index > 0:
            yield Shape(global_batch_size, fan_out, fan_in)


class Products:
    """The products of a step, into arrays that are there already, in float32.

    Each is done in the layout that a trial has found to be the fastest: every matrix by rows or
    by columns, and the product itself or its transpose.

    Parameters
    ----------
    widths : sequence of int
        The network.
    global_batch_size : int
        Samples of a step.

    Attributes
    ----------
    num_flops : int
        Multiplications and additions of a step.
    products : list of (ndarray, ndarray, ndarray)
        Both factors, and where their product goes.
    """

    def __init__(self, widths: Sequence[int], global_batch_size: int) -> None:
        shapes = list(shapes_of_step(widths, global_batch_size))
        self.num_flops = sum(shape.num_flops for shape in shapes)
        self.products = [_fastest(shape) for shape in shapes]

    def train(self, num_steps: int) -> None:
        """Do the products of so many steps."""
        for _ in range(num_steps):
            for a, b, out in self.products:
                np.dot(a, b, out)


def _fastest(shape: Shape) -> tuple[Array, Array, Array]:
    ways = list(_ways(shape))
    times = [_seconds(*way) for way in ways]
    return ways[times.index(min(times))]


def _ways(shape: Shape) -> Iterator[tuple[Array, Array, Array]]:
    """Yield both factors and the place for their product in every layout."""
    generator = np.random.default_rng(0)
    for m, n in ((shape.m, shape.n), (shape.n, shape.m)):
        a = generator.random((m, shape.k), np.float32)
        b = generator.random((shape.k, n), np.float32)
        out = np.empty((m, n), np.float32)
        layouts_of_a, layouts_of_b = ((matrix, np.asfortranarray(matrix)) for matrix in (a, b))
        yield from ((*factors, out) for factors in product(layouts_of_a, layouts_of_b))


def _seconds(a: Array, b: Array, out: Array) -> float:
    """Return the shortest time that the product takes."""
    # The first time finds nothing in the caches.
    np.dot(a, b, out)
    start = now = perf_counter()
    shortest = np.inf
    while shortest == np.inf or now - start < _TRIAL_S:
        before = now
        np.dot(a, b, out)
        now = perf_counter()
        shortest = min(shortest, now - before)
    return shortest
