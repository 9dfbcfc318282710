"""Batches: the rows of a rank's own shards, in the order of the epoch, scaled for the network."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from lockstep.arrays import Array
from lockstep.data.dataset_file import DatasetFile
from lockstep.data.shards import Sharding
from lockstep.errors import UserError
from lockstep.streams import Purpose, philox


@dataclass(frozen=True)
class Scaling:
    """The way from stored numbers to the network's inputs: stored * scale + offset.

    Parameters
    ----------
    scale, offset : ndarray, () or (num_features,)
        In the network's dtype.
    """

    scale: Array
    offset: Array

    @cached_property
    def _has_offset(self) -> bool:
        return bool(self.offset.any())

    def apply(self, stored: Array, out: Array) -> None:
        """Write the inputs for stored rows to `out`, (..., num_features)."""
        np.multiply(stored, self.scale, out=out)
        if self._has_offset:
            np.add(out, self.offset, out=out)


def scaling_of(dataset: DatasetFile, dtype: str) -> Scaling:
    """Return a data set's scaling in the network's dtype."""
    info = dataset.info
    return Scaling(
        np.asarray(np.ravel(info.scale) if np.ndim(info.scale) else info.scale, dtype),
        np.asarray(np.ravel(info.offset) if np.ndim(info.offset) else info.offset, dtype),
    )


def _check_labels(dataset: DatasetFile, split: str, labels: NDArray[np.int32]) -> None:
    num_classes = dataset.info.num_classes
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise UserError(
            f"{dataset.path}: {split}/y has labels outside 0 to {num_classes - 1}, though there "
            f"are {num_classes} class names. Convert the data again with `lockstep convert`."
        )


class Batches:
    """The batches of a block of virtual ranks.

    Call `shuffle` or `in_stored_order` before the first `fill`. Every batch has the same shape.
    Where a virtual rank has fewer samples than that in a step, the rest is padding, marked in
    `used`.

    Parameters
    ----------
    dataset : DatasetFile
        Open; only the block's rows are read, at once, and stay in memory as they are stored.
    split : str
        "train", "validation" or "test".
    sharding : Sharding
        Of that split.
    virtual_ranks : range
        The block.
    scaling : Scaling
        Applied to each batch.

    Attributes
    ----------
    shape : tuple of int
        (virtual ranks of the block, samples of a padded local batch).
    used : ndarray of bool, `shape`, or None
        After `fill`: which samples are no padding; None when all are.
    """

    def __init__(
        self,
        dataset: DatasetFile,
        split: str,
        sharding: Sharding,
        virtual_ranks: range,
        scaling: Scaling,
    ) -> None:
        self.sharding = sharding
        self.virtual_ranks = virtual_ranks
        self._scaling = scaling
        self._sizes = sharding.shard_sizes
        # A batch that is larger than the split would be padded for nothing.
        self._local_batch_sizes = [
            min(pair) for pair in zip(sharding.local_batch_sizes, self._sizes, strict=True)
        ]
        self._starts = [0, *accumulate(self._sizes)]
        self._first_row = self._starts[virtual_ranks.start]
        last_row = self._starts[virtual_ranks.stop]
        self._x, self._y = dataset.read(split, self._first_row, last_row)
        _check_labels(dataset, split, self._y)
        self.shape = (len(virtual_ranks), max(1, *self._local_batch_sizes))
        self._stored = np.empty((*self.shape, self._x.shape[1]), self._x.dtype)
        self.used: NDArray[np.bool_] | None = None

    def shuffle(self, seed: int, epoch: int) -> None:
        """Take the rows of each shard in an order of their own.

        The order is a pure function of (seed, epoch, virtual rank). It sorts the raw output of
        the counter-based generator, which NumPy guarantees never to change (NEP 19), unlike
        that of its own shuffling.
        """
        orders = []
        for virtual_rank in self.virtual_ranks:
            generator = philox(seed, Purpose.SAMPLE_ORDER, epoch, virtual_rank)
            keys = generator.random_raw(self._sizes[virtual_rank])
            orders.append(np.argsort(keys, kind="stable"))
        self._schedule(orders)

    def in_stored_order(self) -> None:
        """Take the rows of each shard as they are stored."""
        self._schedule([np.arange(self._sizes[v]) for v in self.virtual_ranks])

    def _schedule(self, orders: list[NDArray[np.int64]]) -> None:
        """Lay the orders out as a table of rows by step, virtual rank and sample; -1 pads."""
        num_steps = self.sharding.steps_per_epoch
        table = np.full((num_steps, *self.shape), -1, np.int64)
        for own, virtual_rank in enumerate(self.virtual_ranks):
            rows = orders[own] + (self._starts[virtual_rank] - self._first_row)
            width = self._local_batch_sizes[virtual_rank]
            padded = np.full(num_steps * width, -1, np.int64)
            padded[: len(rows)] = rows
            table[:, own, :width] = padded.reshape(num_steps, width)
        is_padding = table < 0
        self._used: NDArray[np.bool_] = ~is_padding
        self._is_full: list[bool] = [bool(used.all()) for used in self._used]
        self._table: NDArray[np.int64] = np.where(is_padding, 0, table)

    def fill(self, step: int, inputs: Array, labels: NDArray[np.int32]) -> None:
        """Write the batch of a step.

        Parameters
        ----------
        step : int
            Of the epoch, counted from 0.
        inputs : ndarray (*shape, num_features)
            Overwritten with the scaled samples; padding is zero.
        labels : ndarray of int32, `shape`
            Overwritten with the class indices.
        """
        if len(self._x):
            rows = self._table[step]
            # Clipping needs no check of the indices, so the gather goes straight to the buffer.
            np.take(self._x, rows, axis=0, out=self._stored, mode="clip")
            np.take(self._y, rows, out=labels, mode="clip")
            self._scaling.apply(self._stored, inputs)
        self.used = None
        if not self._is_full[step]:
            self.used = self._used[step]
            inputs[~self.used] = 0

    def rows(self, step: int) -> NDArray[np.int64]:
        """Return the split's row number of every sample of a step, `shape`."""
        rows: NDArray[np.int64] = self._table[step] + self._first_row
        return rows

    def __iter__(self) -> Iterator[int]:
        """Iterate over the steps of an epoch."""
        return iter(range(self.sharding.steps_per_epoch))
