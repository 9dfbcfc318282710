"""How much of a data set a rank keeps in memory, and in which form."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from lockstep.data.blocks import Blocks
from lockstep.data.dataset_file import LABEL_DTYPE, DatasetInfo
from lockstep.data.shards import Sharding
from lockstep.errors import UserError

MEGABYTE = 10**6

# What a row takes beside its numbers: its label, its place in the order, and what sorting that
# order takes for the time being (random keys, the order, and half as much again to merge).
_BESIDE_BYTES = LABEL_DTYPE.itemsize + 8 + 20


def kept_dtype(stored: DTypeLike, network: DTypeLike) -> np.dtype[np.generic]:
    """Return the type in which rows are kept in memory: the one that makes batches fastest.

    Gathering rows at random is bound by memory, so narrow numbers are kept as they are stored,
    and each batch is scaled, in the cache, on its way to the network. All others are scaled once.

    Parameters
    ----------
    stored, network : dtype
        The data set's and the network's.

    Returns
    -------
    dtype
        `network`: rows are kept scaled; otherwise `stored`.
    """
    stored, network = np.dtype(stored), np.dtype(network)
    # NumPy converts half precision in software, one number at a time.
    is_narrow = stored.itemsize < network.itemsize and stored != np.float16
    return stored if is_narrow else network


@dataclass(frozen=True)
class MemoryBudget:
    """What a rank may use for the rows of a data set.

    Each split has a share in proportion to its rows. So either all splits fit into their shares,
    or none does.

    Parameters
    ----------
    megabytes : float
        In all, each of 1,000,000 bytes.
    info : DatasetInfo
        The data set.
    dtype : dtype
        The network's.
    """

    megabytes: float
    info: DatasetInfo
    dtype: DTypeLike

    @property
    def row_bytes(self) -> int:
        """Bytes of a row that is kept in memory, with all that belongs to it."""
        kept = kept_dtype(self.info.dtype, self.dtype)
        # One more number for the ones that stand for the bias's input.
        return (self.info.num_features + 1) * kept.itemsize + _BESIDE_BYTES

    def share_bytes(self, split: str) -> int:
        """Return a split's share of the budget."""
        num_samples = self.info.num_samples
        return round(self.megabytes * MEGABYTE) * num_samples[split] // sum(num_samples.values())

    def fits(self, split: str, num_rows: int) -> bool:
        """Return whether so many rows of a split can be kept in memory."""
        return num_rows * self.row_bytes <= self.share_bytes(split)

    def blocks(self, split: str, sharding: Sharding) -> Blocks:
        """Divide a split into blocks: a single one if all of it fits into memory.

        Otherwise a single rank that runs all virtual ranks has room for two blocks of each, the
        one that it works on and the next. Their sizes depend on the data set, the budget and the
        sharding alone, and on no number of ranks, for the order of the samples follows from them.
        """
        num_steps = sharding.steps_per_epoch
        if self.fits(split, sharding.num_rows):
            return Blocks(sharding, num_steps)
        most = max(1, self.share_bytes(split) // self._least_bytes(sharding.global_batch_size))
        num_blocks = -(-num_steps // most)
        return Blocks(sharding, -(-num_steps // num_blocks))

    def check(self, global_batch_size: int) -> None:
        """See that the training rows fit, or can be taken in blocks.

        Raises
        ------
        UserError
            When two blocks of a single step each don't fit.
        """
        num_train = self.info.num_samples["train"]
        least = self._least_bytes(global_batch_size)
        if self.fits("train", num_train) or least <= self.share_bytes("train"):
            return
        num_rows = sum(self.info.num_samples.values())
        in_blocks = -(-least * num_rows // num_train)
        needed = min(in_blocks, num_rows * self.row_bytes)
        raise UserError(
            f"memory_budget_mb = {self.megabytes:g} is too small for the data set, even if it is "
            f"read block by block: with global_batch_size = {global_batch_size} it takes at least "
            f"{-(-needed * 1000 // MEGABYTE) / 1000}. Raise the one or lower the other."
        )

    def _least_bytes(self, global_batch_size: int) -> int:
        """Return the size of two blocks of a single step, over all virtual ranks."""
        return 2 * global_batch_size * self.row_bytes
