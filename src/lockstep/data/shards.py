"""Which rows belong to which virtual rank, and how many of them make up each step."""

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise


def share(total: int, parts: int) -> list[int]:
    """Divide `total` things into `parts` whole shares that differ by at most one."""
    return proportional_share(total, [1] * parts)


def proportional_share(total: int, weights: list[int]) -> list[int]:
    """Divide `total` things into whole shares in proportion to `weights`.

    Each share is the exact proportion rounded up or down, and the shares add up to `total`.
    """
    shares, done, weight_done = [], 0, 0
    for weight in weights:
        weight_done += weight
        end = total * weight_done // sum(weights)
        shares.append(end - done)
        done = end
    return shares


@dataclass(frozen=True)
class Sharding:
    """The division of a split's rows and of every step's batch over the virtual ranks.

    Shards are contiguous and in the order of the virtual ranks. Their sizes follow the batch's
    division, so that all virtual ranks come to the end of an epoch at the same step and every
    step but the last has exactly `global_batch_size` samples, whatever the numbers are.

    Parameters
    ----------
    num_rows : int
        Rows of the split.
    global_batch_size : int
        Samples of one step over all virtual ranks.
    num_virtual_ranks : int
        V, at most `global_batch_size`.
    """

    num_rows: int
    global_batch_size: int
    num_virtual_ranks: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps that it takes to see every row once."""
        return -(-self.num_rows // self.global_batch_size)

    @cached_property
    def local_batch_sizes(self) -> list[int]:
        """Samples of a full step, by virtual rank."""
        return share(self.global_batch_size, self.num_virtual_ranks)

    @cached_property
    def shard_sizes(self) -> list[int]:
        """Rows by virtual rank: a local batch for each full step, and a share of the last one."""
        full_steps, remainder = divmod(self.num_rows, self.global_batch_size)
        last_step = proportional_share(remainder, self.local_batch_sizes)
        return [
            full_steps * local_batch_size + extra
            for local_batch_size, extra in zip(self.local_batch_sizes, last_step, strict=True)
        ]

    @cached_property
    def shards(self) -> list[range]:
        """The split's row numbers by virtual rank."""
        return [range(*ends) for ends in pairwise([0, *accumulate(self.shard_sizes)])]

    def num_samples(self, step: int) -> int:
        """Return the samples of a step of the epoch, counted from 0, over all virtual ranks."""
        return min(self.global_batch_size, self.num_rows - step * self.global_batch_size)
