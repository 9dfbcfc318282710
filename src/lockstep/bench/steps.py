"""The time of a training's steps."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from lockstep.config import Config
from lockstep.data.dataset_file import DatasetFile
from lockstep.parallel.communicator import Communicator
from lockstep.train.observers import Observer
from lockstep.train.requests import Requests
from lockstep.train.trainer import Trainer

# Steps in which caches and pages of memory are filled for the first time.
_WARM_UP = 5


@dataclass(frozen=True)
class Timed:
    """A training whose steps were timed.

    Parameters
    ----------
    step_s : float
        Mean seconds of a step on this rank.
    way : str
        How gradients were added up.
    """

    step_s: float
    way: str


class StepTimes(Observer):
    """Takes the time of every step; what is done between two epochs doesn't count.

    Attributes
    ----------
    seconds : list of float
        By step.
    way : str
        How gradients are added up.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.way = ""
        self._last = 0.0

    def reduction_made(self, name: str) -> None:
        """Take note of it."""
        self.way = name

    def epoch_begins(self, epoch: int, num_steps: int, num_done: int) -> None:
        """Start the clock."""
        del epoch, num_steps, num_done
        self._last = perf_counter()

    def step_done(self) -> None:
        """Read the clock."""
        now = perf_counter()
        self.seconds.append(now - self._last)
        self._last = now


def time_steps(
    config: Config, dataset: DatasetFile, communicator: Communicator, num_steps: int
) -> Timed:
    """Begin a training and time its first steps after a few to warm up; collective.

    Parameters
    ----------
    config : Config
        Resolved, and without anything that is done every so many steps.
    dataset : DatasetFile
        Open.
    communicator : Communicator
        The ranks.
    num_steps : int
        How many steps to time.

    Returns
    -------
    Timed
        The mean, not the median: where ranks take turns on a core, most steps of a rank that
        waits for nobody look as if it had the core to itself, and a few take all the waiting.
    """
    times = StepTimes()
    requests = Requests(stop_after=_WARM_UP + num_steps)
    Trainer(config, dataset, communicator, times, requests).train()
    return Timed(sum(times.seconds[_WARM_UP:]) / num_steps, times.way)


def mean_s(train: Callable[[int], None], num_steps: int) -> float:
    """Train so many steps and return the mean seconds of one."""
    start = perf_counter()
    train(num_steps)
    return (perf_counter() - start) / num_steps
