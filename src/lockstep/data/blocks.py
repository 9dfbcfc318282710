"""Blocks of consecutive rows: how shards that don't fit in memory are divided, and their order."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lockstep.data.shards import Sharding
from lockstep.streams import Purpose, philox


class SampleOrder(Protocol):
    """The order in which an epoch takes the rows of a shard: block by block, each in an order."""

    def of_blocks(self, virtual_rank: int, num_blocks: int) -> NDArray[np.int64]:
        """Return the blocks of a shard in their order, (num_blocks,)."""

    def of_rows(self, virtual_rank: int, place: int, num_rows: int) -> NDArray[np.int64]:
        """Return the rows, counted from 0, of the block at a place of that order, (num_rows,)."""


@dataclass(frozen=True)
class StoredOrder:
    """All rows as they are stored."""

    def of_blocks(self, virtual_rank: int, num_blocks: int) -> NDArray[np.int64]:
        """Return the blocks of a shard in their order, (num_blocks,)."""
        del virtual_rank
        return np.arange(num_blocks)

    def of_rows(self, virtual_rank: int, place: int, num_rows: int) -> NDArray[np.int64]:
        """Return the rows, counted from 0, of the block at a place of that order, (num_rows,)."""
        del virtual_rank, place
        return np.arange(num_rows)


@dataclass(frozen=True)
class ShuffledOrder:
    """A random order of the blocks, and of the rows in each.

    A pure function of seed, epoch, virtual rank and the division into blocks. It sorts the raw
    output of the counter-based generator, which NumPy guarantees never to change (NEP 19), unlike
    that of its own shuffling.

    Parameters
    ----------
    seed : int
        The run's, 0 <= seed < 2**64.
    epoch : int
        Counted from 1.
    """

    seed: int
    epoch: int

    def of_blocks(self, virtual_rank: int, num_blocks: int) -> NDArray[np.int64]:
        """Return the blocks of a shard in their order, (num_blocks,)."""
        return _sorted(philox(self.seed, Purpose.BLOCK_ORDER, self.epoch, virtual_rank), num_blocks)

    def of_rows(self, virtual_rank: int, place: int, num_rows: int) -> NDArray[np.int64]:
        """Return the rows, counted from 0, of the block at a place of that order, (num_rows,)."""
        return _sorted(
            philox(self.seed, Purpose.SAMPLE_ORDER, self.epoch, virtual_rank, place), num_rows
        )


def _sorted(generator: np.random.Philox, number: int) -> NDArray[np.int64]:
    return np.argsort(generator.random_raw(number), kind="stable")


@dataclass(frozen=True)
class Blocks:
    """The division of all shards of a split into blocks of consecutive rows.

    A block has the rows of so many steps, so all virtual ranks come to the end of one at the same
    step, and no local batch lies in two. Rows are stored shuffled: a block is a fair sample.

    Parameters
    ----------
    sharding : Sharding
        Of the split.
    steps_per_block : int
        At least 1. The block that an epoch takes last may be shorter.
    """

    sharding: Sharding
    steps_per_block: int

    @property
    def num_blocks(self) -> int:
        """Blocks of each shard."""
        return -(-self.sharding.steps_per_epoch // self.steps_per_block)

    def steps(self, place: int) -> range:
        """Return the steps of an epoch that are made with the blocks at one place of its order."""
        first = place * self.steps_per_block
        return range(first, min(first + self.steps_per_block, self.sharding.steps_per_epoch))

    def rows(self, virtual_rank: int, order: SampleOrder) -> list[range]:
        """Return a shard's blocks in the order of an epoch.

        The shard is cut so that whichever block is the last one in that order is the short one.

        Returns
        -------
        list of range
            Row numbers of the split.
        """
        shard = self.sharding.shards[virtual_rank]
        size = self.steps_per_block * self.sharding.local_batch_sizes[virtual_rank]
        numbers = order.of_blocks(virtual_rank, self.num_blocks).tolist()
        missing = len(numbers) * size - len(shard)
        last = numbers[-1]
        return [
            range(
                shard.start + number * size - (missing if number > last else 0),
                shard.start + (number + 1) * size - (missing if number >= last else 0),
            )
            for number in numbers
        ]
