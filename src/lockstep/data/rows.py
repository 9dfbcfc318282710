"""The rows that a rank holds in memory: all of its own, or two blocks of each of its shards."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lockstep.arrays import Array
from lockstep.data.blocks import Blocks, SampleOrder
from lockstep.data.dataset_file import LABEL_DTYPE, DatasetFile, block_rows
from lockstep.errors import UserError


@dataclass(frozen=True)
class Layout:
    """How a rank's batches look.

    Parameters
    ----------
    blocks : Blocks
        The division of all shards.
    virtual_ranks : range
        The rank's own.
    shape : tuple of int
        (own virtual ranks, samples of a padded local batch).
    local_batch_sizes : list of int
        Samples of a full step, by own virtual rank.
    """

    blocks: Blocks
    virtual_ranks: range
    shape: tuple[int, int]
    local_batch_sizes: list[int]


class HeldRows:
    """Rows in memory, and the places of some steps' samples among them.

    Parameters
    ----------
    layout : Layout
        Of the batches.
    num_rows, num_features, num_steps : int
        What there must be room for.
    dtype : dtype
        In which the rows are kept.

    Attributes
    ----------
    x : ndarray (num_rows, num_features + 1)
        Rows with a last column of ones.
    y : ndarray of int32 (num_rows,)
        Class indices.
    places : ndarray of int64 (num_steps, own virtual ranks, padded local batch size)
        Where in `x` and `y` each sample of a step is; anywhere for padding.
    row_offsets : ndarray of int64 (own virtual ranks, 1)
        What makes places the row numbers of the split.
    first_step : int
        Of the epoch, to which the first places belong.
    """

    def __init__(
        self, layout: Layout, num_rows: int, num_features: int, num_steps: int, dtype: DTypeLike
    ) -> None:
        self._layout = layout
        # Padding takes the first row even where there are none.
        num_rows = max(1, num_rows)
        self.x: Array = np.zeros((num_rows, num_features + 1), dtype)
        self.x[:, -1] = 1
        self.y = np.zeros(num_rows, LABEL_DTYPE)
        self.places = np.zeros((num_steps, *layout.shape), np.int64)
        self.row_offsets = np.zeros((len(layout.virtual_ranks), 1), np.int64)
        self.first_step = 0

    def arrange(self, own: int, first_step: int, places: NDArray[np.int64]) -> None:
        """Take rows of the `own`-th virtual rank in an order, from a step of the epoch on."""
        width = self._layout.local_batch_sizes[own]
        if width == 0:
            return
        table = self.places[first_step - self.first_step :, own, :width]
        num_full, num_left = divmod(len(places), width)
        full, left = np.split(places, [num_full * width])
        table[:num_full] = full.reshape(num_full, width)
        if num_left:
            table[num_full] = 0
            table[num_full, :num_left] = left


class RowReader:
    """Reads rows of a split and keeps them in the form that the batches want.

    Parameters
    ----------
    dataset : DatasetFile
        Open.
    split : str
        "train", "validation" or "test".
    keep : callable
        Given stored rows and where they go, both (num_rows, num_features), writes what is kept.
    """

    def __init__(
        self, dataset: DatasetFile, split: str, keep: Callable[[Array, Array], None]
    ) -> None:
        info = dataset.info
        self._dataset = dataset
        self._split = split
        self._keep = keep
        num_rows = min(block_rows(info.dtype, info.feature_shape), info.num_samples[split])
        self._piece: Array = np.empty((num_rows, info.num_features), info.dtype)

    def read(self, rows: range, x: Array, y: NDArray[np.int32]) -> None:
        """Read rows of the split in pieces of some megabytes.

        Parameters
        ----------
        rows : range
            Row numbers of the split.
        x : ndarray (len(rows), num_features)
            Where they are kept.
        y : ndarray of int32 (len(rows),)
            Where their class indices are kept.

        Raises
        ------
        UserError
            When they can't be read, or have values that aren't finite.
        """
        for first in range(0, len(rows), len(self._piece)):
            part = slice(first, first + len(self._piece))
            numbers = rows[part]
            piece = self._piece[: len(numbers)]
            self._dataset.read(self._split, numbers.start, numbers.stop, (piece, y[part]))
            # What is too large for the network's type becomes infinite.
            with np.errstate(over="ignore", invalid="ignore"):
                self._keep(piece, x[part])
            self._check(x[part], numbers.start)

    def _check(self, x: Array, first: int) -> None:
        if x.dtype.kind != "f" or np.isfinite(x).all():
            return
        row = first + int((~np.isfinite(x)).any(axis=1).argmax())
        raise UserError(
            f"{self._dataset.path}: {self._split}/x has values that aren't finite, or too large "
            f"for {x.dtype}, first in row {row} (counted from 0). Fill, drop or scale them, and "
            "convert the data again."
        )


class Rows(Protocol):
    """Holds the rows of every step when they are needed."""

    def begin(self, order: SampleOrder) -> None:
        """Begin an epoch, or begin one anew."""

    def at(self, step: int) -> HeldRows:
        """Return the rows of a step of the epoch, counted from 0; valid until the next call."""


class RowsInMemory:
    """All rows of a rank, read once.

    Parameters
    ----------
    layout : Layout
        Of the batches.
    reader : RowReader
        Used at once, and not kept.
    num_features : int
        Of a row.
    dtype : dtype
        In which the rows are kept.
    """

    def __init__(
        self, layout: Layout, reader: RowReader, num_features: int, dtype: DTypeLike
    ) -> None:
        shards = layout.blocks.sharding.shards
        first, last = shards[layout.virtual_ranks[0]], shards[layout.virtual_ranks[-1]]
        rows = range(first.start, last.stop)
        num_steps = layout.blocks.sharding.steps_per_epoch
        self._layout = layout
        self._held = HeldRows(layout, len(rows), num_features, num_steps, dtype)
        self._held.row_offsets[:] = rows.start
        reader.read(rows, self._held.x[: len(rows), :-1], self._held.y[: len(rows)])

    def begin(self, order: SampleOrder) -> None:
        """Begin an epoch, or begin one anew."""
        blocks = self._layout.blocks
        for own, virtual_rank in enumerate(self._layout.virtual_ranks):
            for place, rows in enumerate(blocks.rows(virtual_rank, order)):
                places = order.of_rows(virtual_rank, place, len(rows))
                places += rows.start - self._held.row_offsets[own]
                self._held.arrange(own, blocks.steps(place).start, places)

    def at(self, step: int) -> HeldRows:
        """Return the rows of a step of the epoch, counted from 0."""
        del step
        return self._held


class RowsInBlocks:
    """Two blocks of each of a rank's shards: those that it works on, and the next ones.

    A background thread reads, converts and orders the next ones. It is no daemon, which could be
    cut off inside the HDF5 library: when the process ends, a block that is being read is read.

    Parameters
    ----------
    layout : Layout
        Of the batches.
    reader : RowReader
        For the thread.
    num_features : int
        Of a row.
    dtype : dtype
        In which the rows are kept.
    """

    def __init__(
        self, layout: Layout, reader: RowReader, num_features: int, dtype: DTypeLike
    ) -> None:
        num_steps = layout.blocks.steps_per_block
        num_rows = num_steps * sum(layout.local_batch_sizes)
        self._layout = layout
        self._reader = reader
        self._held, self._spare = (
            HeldRows(layout, num_rows, num_features, num_steps, dtype) for _ in range(2)
        )
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="block-reader")

    def begin(self, order: SampleOrder) -> None:
        """Begin an epoch, or begin one anew."""
        self._order = order
        self._rows = [self._layout.blocks.rows(v, order) for v in self._layout.virtual_ranks]
        self._place: int | None = None
        self._coming: tuple[int, Future[None]] | None = None

    def at(self, step: int) -> HeldRows:
        """Return the rows of a step of the epoch, counted from 0; valid until the next call.

        Raises
        ------
        Exception
            What reading them has failed with.
        """
        place = step // self._layout.blocks.steps_per_block
        if place != self._place:
            self._turn_to(place)
        return self._held

    def _turn_to(self, place: int) -> None:
        """Wait for the blocks at a place of the order, and have those after them read."""
        if self._coming is None or self._coming[0] != place:
            self._coming = self._begin_reading(place)
        self._coming[1].result()
        self._held, self._spare = self._spare, self._held
        self._place = place
        is_last = place + 1 == self._layout.blocks.num_blocks
        self._coming = None if is_last else self._begin_reading(place + 1)

    def _begin_reading(self, place: int) -> tuple[int, Future[None]]:
        # The one thread does one thing after the other: what an earlier order still has it read
        # is overwritten.
        return place, self._thread.submit(self._read, place, self._order, self._rows, self._spare)

    def _read(
        self, place: int, order: SampleOrder, rows_by_place: list[list[range]], held: HeldRows
    ) -> None:
        held.first_step = self._layout.blocks.steps(place).start
        start = 0
        for own, virtual_rank in enumerate(self._layout.virtual_ranks):
            rows = rows_by_place[own][place]
            where = slice(start, start + len(rows))
            self._reader.read(rows, held.x[where, :-1], held.y[where])
            places = order.of_rows(virtual_rank, place, len(rows))
            places += start
            held.arrange(own, held.first_step, places)
            held.row_offsets[own] = rows.start - start
            start += len(rows)
