"""Batches: the rows of a rank's own shards, in the order of the epoch, scaled for the network."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lockstep.arrays import Array
from lockstep.data.blocks import ShuffledOrder, StoredOrder
from lockstep.data.dataset_file import DatasetFile
from lockstep.data.memory import MemoryBudget, kept_dtype
from lockstep.data.rows import Layout, RowReader, Rows, RowsInBlocks, RowsInMemory
from lockstep.data.shards import Sharding
from lockstep.errors import UserError


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

    def with_column(self) -> "Scaling":
        """Return the same for rows with one more column, whatever becomes of that."""
        one_more = np.zeros(1, self.scale.dtype)
        return Scaling(*(
            np.append(values, one_more) if values.ndim else values
            for values in (self.scale, self.offset)
        ))  # fmt: skip


def scaling_of(dataset: DatasetFile, dtype: str) -> Scaling:
    """Return a data set's scaling in the network's dtype.

    Raises
    ------
    UserError
        When it is too large for that.
    """
    info = dataset.info
    with np.errstate(over="ignore"):
        scale, offset = (
            np.asarray(np.ravel(values) if np.ndim(values) else values, dtype)
            for values in (info.scale, info.offset)
        )
    if not (np.isfinite(scale).all() and np.isfinite(offset).all()):
        raise UserError(
            f"{dataset.path}: its attributes scale and offset are too large for {dtype}. Convert "
            "the data again, with --standardize or another --scale."
        )
    return Scaling(scale, offset)


class Batches:
    """The batches of a rank's virtual ranks.

    Call `shuffle` or `in_stored_order` before the first `fill`. Every batch has the same shape.
    Where a virtual rank has fewer samples than that in a step, the rest is padding, marked in
    `used`.

    The rank's rows are read at once if they fit into the budget, otherwise block by block while
    the batches are taken. What the batches are does not depend on that.

    Parameters
    ----------
    dataset : DatasetFile
        Open.
    split : str
        "train", "validation" or "test".
    sharding : Sharding
        Of that split.
    virtual_ranks : range
        The rank's own.
    scaling : Scaling
        Of the inputs.
    budget : MemoryBudget
        For the data set.

    Attributes
    ----------
    shape : tuple of int
        (own virtual ranks, samples of a padded local batch).
    used : ndarray of bool, `shape`, or None
        After `fill`: which samples are no padding; None when all are.

    Raises
    ------
    UserError
        When the rows can't be read, or have values that aren't finite.
    """

    def __init__(
        self,
        dataset: DatasetFile,
        split: str,
        sharding: Sharding,
        virtual_ranks: range,
        scaling: Scaling,
        budget: MemoryBudget,
    ) -> None:
        info = dataset.info
        self.sharding = sharding
        self.virtual_ranks = virtual_ranks
        sizes = sharding.shard_sizes
        # A batch that is larger than the split would be padded for nothing.
        full = list(map(min, sharding.local_batch_sizes, sizes))
        last = [size - (len(self) - 1) * most for size, most in zip(sizes, full, strict=True)]
        # Of all virtual ranks, for shapes must not depend on where they run.
        self.shape = (len(virtual_ranks), max(1, *full))
        own = slice(virtual_ranks.start, virtual_ranks.stop)
        self._full, self._last = (_Padding(counts[own], self.shape) for counts in (full, last))
        self.used: NDArray[np.bool_] | None = None

        dtype = kept_dtype(info.dtype, scaling.scale.dtype)
        self._is_scaled = dtype == scaling.scale.dtype
        self._scaling = scaling.with_column()
        self._stored = np.empty((*self.shape, info.num_features + 1), dtype)

        num_rows = sharding.shards[virtual_ranks[-1]].stop - sharding.shards[virtual_ranks[0]].start
        reader = RowReader(dataset, split, scaling.apply if self._is_scaled else _copy)
        layout = Layout(budget.blocks(split, sharding), virtual_ranks, self.shape, full[own])
        kind = RowsInMemory if budget.fits(split, num_rows) else RowsInBlocks
        self._rows: Rows = kind(layout, reader, info.num_features, dtype)

    def shuffle(self, seed: int, epoch: int) -> None:
        """Take the rows of each shard in a random order of their own.

        The order is a pure function of seed, epoch, virtual rank, data set and budget.
        """
        self._rows.begin(ShuffledOrder(seed, epoch))

    def in_stored_order(self) -> None:
        """Take the rows of each shard as they are stored."""
        self._rows.begin(StoredOrder())

    def fill(self, step: int, rows: Array, labels: NDArray[np.int32]) -> None:
        """Write the batch of a step.

        Parameters
        ----------
        step : int
            Of the epoch, counted from 0.
        rows : ndarray (*shape, num_features + 1)
            Overwritten with the scaled samples and a last column of ones; padding is zero, but
            for that column. Contiguous, in the network's dtype.
        labels : ndarray of int32, `shape`
            Overwritten with the class indices.

        Raises
        ------
        UserError
            When the rows are read in the background and can't be.
        """
        held = self._rows.at(step)
        places = held.places[step - held.first_step]
        # Clipping needs no check of the places, so the gather goes straight to the buffer.
        held.y.take(places, out=labels, mode="clip")
        if self._is_scaled:
            held.x.take(places, axis=0, out=rows, mode="clip")
        else:
            held.x.take(places, axis=0, out=self._stored, mode="clip")
            # Exact, for the type is narrower; NumPy is slower, and needs a buffer, when it is to
            # convert and multiply at a time, or to leave out the column of ones.
            np.copyto(rows, self._stored)
            self._scaling.apply(rows, rows)
            rows[:, :, -1] = 1
        padding = self._last if step == len(self) - 1 else self._full
        padding.clear(rows)
        self.used = padding.used

    def rows(self, step: int) -> NDArray[np.int64]:
        """Return the split's row number of every sample of a step, `shape`, after its `fill`."""
        held = self._rows.at(step)
        rows: NDArray[np.int64] = held.places[step - held.first_step] + held.row_offsets
        return rows

    def __len__(self) -> int:
        """Return the number of steps of an epoch."""
        return self.sharding.steps_per_epoch

    def __iter__(self) -> Iterator[int]:
        """Iterate over the steps of an epoch."""
        return iter(range(len(self)))


class _Padding:
    """What is no sample in a batch.

    Parameters
    ----------
    counts : list of int
        Samples by virtual rank.
    shape : tuple of int
        (virtual ranks, samples of a padded local batch).
    """

    def __init__(self, counts: list[int], shape: tuple[int, int]) -> None:
        used = np.arange(shape[1]) < np.array(counts)[:, np.newaxis]
        self.used = None if used.all() else used
        self._ends = [(own, count) for own, count in enumerate(counts) if count < shape[1]]

    def clear(self, rows: Array) -> None:
        for own, count in self._ends:
            rows[own, count:, :-1] = 0


def _copy(stored: Array, out: Array) -> None:
    np.copyto(out, stored)
