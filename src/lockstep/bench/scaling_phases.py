"""Where the time of the steps goes on each rank, and how much of it is waiting for others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from numpy.typing import DTypeLike

from lockstep.arrays import Array
from lockstep.bench.apart import Wrapper
from lockstep.bench.ranks import gather_figures
from lockstep.bench.scaling_measurement import PHASES
from lockstep.config import Config
from lockstep.data.dataset_file import DatasetFile
from lockstep.parallel.communicator import Communicator, Reduction
from lockstep.train.observers import EpochResult, Observer
from lockstep.train.trainer import Trainer

# The training's own; waiting is a part of reduce.
_CLOCKED = ("compute", "reduce", "update", "data")


class WatchedReduction:
    """A reduction, and the time of every call in which ranks wait for each other.

    Parameters
    ----------
    reduction : Reduction
        Does the work.
    call_s : list of float
        The seconds of each call are added to it.
    """

    def __init__(self, reduction: Reduction, call_s: list[float]) -> None:
        self._reduction = reduction
        self._call_s = call_s
        self.name = reduction.name
        self.own = reduction.own
        self.leaves = reduction.leaves

    def add(self, group: int) -> None:
        """Pass it on."""
        self._reduction.add(group)

    def reduce_scatter(self) -> Array:
        """Pass it on, and take the time."""
        start_s = perf_counter()
        total = self._reduction.reduce_scatter()
        self._call_s.append(perf_counter() - start_s)
        return total

    def all_gather(self) -> Array:
        """Pass it on, and take the time."""
        start_s = perf_counter()
        total = self._reduction.all_gather()
        self._call_s.append(perf_counter() - start_s)
        return total

    def close(self) -> None:
        """Pass it on."""
        self._reduction.close()


class Watched(Wrapper):
    """The ranks of a communicator, whose reductions take the time of their calls.

    Attributes
    ----------
    call_s : list of float
        Seconds of each call.
    """

    def __init__(self, communicator: Communicator) -> None:
        super().__init__(communicator)
        self.call_s: list[float] = []

    def reduction(
        self,
        kind: str,
        num_virtual_ranks: int,
        shapes: Sequence[tuple[int, ...]],
        dtype: DTypeLike,
        rehearse: Callable[[Reduction], None],
    ) -> WatchedReduction:
        """Return the same reduction, watched."""
        chosen = super().reduction(kind, num_virtual_ranks, shapes, dtype, rehearse)
        return WatchedReduction(chosen, self.call_s)


class _Epochs(Observer):
    """Keeps the times of all epochs but the first, in which caches and memory are warmed up."""

    def __init__(self, call_s: list[float]) -> None:
        self.results: list[EpochResult] = []
        self._call_s = call_s

    def epoch_done(self, result: EpochResult) -> None:
        if result.epoch == 1:
            self._call_s.clear()
        else:
            self.results.append(result)


@dataclass(frozen=True)
class Phases:
    """The steps of a round.

    Parameters
    ----------
    step_s : float
        Mean seconds of a step on the slowest rank.
    num_steps : int
        How many there were.
    phase_s : dict of str to list of float
        Mean seconds of a step, by phase and rank.
    """

    step_s: float
    num_steps: int
    phase_s: dict[str, list[float]]


def time_phases(
    config: Config, dataset: DatasetFile, group: Communicator, num_epochs: int
) -> Phases:
    """Train some epochs after one to warm up, and tell where the time went; collective.

    Parameters
    ----------
    config : Config
        Resolved, and without anything that is done every so many steps.
    dataset : DatasetFile
        Open; with training rows only.
    group : Communicator
        The ranks.
    num_epochs : int
        How many to time.

    Returns
    -------
    Phases
        The same on all ranks. In a call of the reduction a rank has waited for as long as its
        call took longer than that of the rank that came last, which is the shortest one.
    """
    watched = Watched(group)
    epochs = _Epochs(watched.call_s)
    training = replace(config.training, epochs=1 + num_epochs)
    trainer = Trainer(replace(config, training=training), dataset, watched, epochs)
    trainer.train()
    wait_s = waits(gather_figures(group, watched.call_s))
    results = epochs.results
    own = [sum(getattr(one, f"{phase}_s") for one in results) for phase in _CLOCKED]
    spent = gather_figures(group, [*own, sum(one.epoch_s for one in results)])
    num_steps = trainer.progress.step * num_epochs // (1 + num_epochs)
    return split_up(spent, wait_s, num_steps)


def waits(call_s: Array) -> Array:
    """Return how long each rank has waited for others, (num_ranks,), in seconds.

    Parameters
    ----------
    call_s : ndarray (num_ranks, num_calls)
        Seconds of calls that no rank leaves before all have entered.
    """
    waited: Array = (call_s - call_s.min(axis=0)).sum(axis=1)
    return waited


def split_up(spent: Array, wait_s: Array, num_steps: int) -> Phases:
    """Divide the time of some steps.

    Parameters
    ----------
    spent : ndarray (num_ranks, 5)
        Seconds of compute, reduce, update, data, and in all.
    wait_s : ndarray (num_ranks,)
        Seconds of waiting, which are a part of reduce.
    num_steps : int
        How many steps there were.
    """
    compute, reduce, update, data, total = spent.T / num_steps
    wait = wait_s / num_steps
    other = total - compute - reduce - update - data
    parts = (compute, reduce - wait, update, data, wait, other)
    return Phases(
        step_s=float(total.max()),
        num_steps=num_steps,
        phase_s={name: part.tolist() for name, part in zip(PHASES, parts, strict=True)},
    )
