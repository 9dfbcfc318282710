"""Steps and the parts in which their gradients are computed."""

from collections.abc import Iterator
from dataclasses import dataclass

from lockstep.data.shards import Sharding


@dataclass(frozen=True)
class Part:
    """One forward and backward pass of a step.

    Parameters
    ----------
    number : int
        Of all parts of the training, counted from 0; random draws are addressed by it.
    of_epoch : int
        Of the epoch's parts, counted from 0.
    is_first, is_last : bool
        Of the step.
    """

    number: int
    of_epoch: int
    is_first: bool = True
    is_last: bool = True


@dataclass(frozen=True)
class Steps:
    """The steps of an epoch: each takes `accumulation` parts, the last one perhaps fewer.

    Parameters
    ----------
    sharding : Sharding
        Of the training rows over parts: its batches are those of one part.
    accumulation : int
        Parts of a step.
    """

    sharding: Sharding
    accumulation: int

    @property
    def per_epoch(self) -> int:
        """Steps that it takes to see every row once."""
        return -(-self.sharding.steps_per_epoch // self.accumulation)

    def num_samples(self, step: int) -> int:
        """Return the samples of a step of the epoch, counted from 0, over all virtual ranks."""
        return sum(map(self.sharding.num_samples, self._range(step)))

    def parts(self, epoch: int, step: int) -> Iterator[Part]:
        """Yield the parts of a step; epochs are counted from 1, and steps of them from 0."""
        own = self._range(step)
        before = (epoch - 1) * self.sharding.steps_per_epoch
        for part in own:
            yield Part(before + part, part, part == own[0], part == own[-1])

    def _range(self, step: int) -> range:
        first = step * self.accumulation
        return range(first, min(first + self.accumulation, self.sharding.steps_per_epoch))
