"""What trainings of several sizes have needed of memory and time."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import linear_regression, median


@dataclass(frozen=True)
class MemoryUse:
    """One training in a process of its own.

    Parameters
    ----------
    imports_bytes, setup_bytes, peak_bytes : int
        Most resident memory until all is imported, until the training has been set up, and until
        the end. A whole run tells nothing between the first and the last.
    epoch_s : float
        Seconds of the epoch; 0 where none was finished.
    """

    imports_bytes: int
    setup_bytes: int
    peak_bytes: int
    epoch_s: float


@dataclass(frozen=True)
class MemoryMeasurement:
    """A training, repeated.

    Parameters
    ----------
    network : str
        Its widths.
    num_parameters, global_batch_size : int
        Of the network and of each step.
    optimizer : str
        The update rule.
    num_rows, data_bytes : int
        Rows of the data set, and the size of its file.
    budget_bytes : int
        What a rank may use for the data.
    is_in_blocks : bool
        Whether the data did not fit into that, and were read block by block.
    is_saved : bool
        Whether it was a whole run, with its folder and checkpoints.
    uses : list of MemoryUse
        By round.
    """

    network: str
    num_parameters: int
    global_batch_size: int
    optimizer: str
    num_rows: int
    data_bytes: int
    budget_bytes: int
    is_in_blocks: bool
    is_saved: bool
    uses: list[MemoryUse]

    @property
    def peak_bytes(self) -> float:
        """Most resident memory: the median of the rounds."""
        return median(use.peak_bytes for use in self.uses)

    @property
    def own_bytes(self) -> float:
        """The same without what the imports had needed before."""
        return median(use.peak_bytes - use.imports_bytes for use in self.uses)

    @property
    def bytes_per_parameter(self) -> float:
        """What each parameter has taken, with everything that is no parameter."""
        return self.own_bytes / self.num_parameters

    @property
    def epoch_s(self) -> list[float]:
        """Seconds of an epoch, by round."""
        return [use.epoch_s for use in self.uses]


def slope(models: Sequence[MemoryMeasurement]) -> float:
    """Return how many bytes one more parameter takes, by least squares over at least two sizes."""
    sizes = [one.num_parameters for one in models]
    return linear_regression(sizes, [one.own_bytes for one in models]).slope
