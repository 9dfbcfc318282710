"""Whether the ranks have cores enough, and the launcher's option that mends it where not."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lockstep.parallel.binding import Binding, cores_text, gather_bindings, ranges
from lockstep.parallel.communicator import Communicator

# Set for the ranks that Lockstep starts itself; see `lockstep.parallel.launch`.
STARTED_HERE = "LOCKSTEP_STARTED_RANKS"


@dataclass(frozen=True)
class Crowding:
    """Ranks that share fewer cores than they have threads.

    Parameters
    ----------
    text : str
        What is the matter.
    remedy : str
        What mends it.
    is_mendable : bool
        Whether other options would do; otherwise there are simply more ranks than cores.
    """

    text: str
    remedy: str
    is_mendable: bool


@dataclass(frozen=True)
class _Crowd:
    """Ranks of one host that can't leave some cores."""

    ranks: list[int]
    host: str
    cores: tuple[int, ...]
    num_threads: int
    possible_cores: tuple[int, ...]
    num_host_ranks: int

    @property
    def load(self) -> float:
        """Threads for each core."""
        return len(self.ranks) * self.num_threads / len(self.cores)

    @property
    def even_load(self) -> float:
        """What it would be if the host's ranks had all cores that they might be given."""
        return self.num_host_ranks * self.num_threads / len(self.possible_cores)


def is_crowded(communicator: Communicator) -> bool:
    """Return whether ranks of one BLAS thread each have too few cores; collective."""
    return find_crowding(gather_bindings(communicator), 1, communicator.library) is not None


def find_crowding(
    bindings: Sequence[Binding],
    num_threads: int,
    library: str | None,
    environment: Mapping[str, str] = os.environ,
) -> Crowding | None:
    """Return what is wrong with the ranks' cores, at the worst place.

    Parameters
    ----------
    bindings : sequence of Binding
        By rank.
    num_threads : int
        BLAS threads that each rank is to have.
    library : str or None
        The MPI library's name, from which the launcher's options follow.
    environment : mapping of str to str
        Of a rank: it tells the launcher.

    Returns
    -------
    Crowding or None
        None where each thread can have a core of its own.
    """
    crowds = [crowd for crowd in _crowds(bindings, num_threads) if crowd.load > 1]
    if not crowds:
        return None
    worst = max(crowds, key=lambda crowd: (crowd.load, len(crowd.cores)))
    launcher = _launcher(environment, library, len(bindings))
    if worst.even_load < worst.load:
        return Crowding(_bound_text(worst), _binding_remedy(worst, launcher), is_mendable=True)
    if num_threads > 1:
        return Crowding(_shared_text(worst), _threads_remedy(worst, launcher), is_mendable=True)
    remedy = f"They take turns: {_counted(len(worst.cores), 'rank')} would be about as fast."
    return Crowding(_shared_text(worst), remedy, is_mendable=False)


def _crowds(bindings: Sequence[Binding], num_threads: int) -> Iterator[_Crowd]:
    """Yield, for each mask of a host and for all of them together, the ranks that lie within."""
    for host in dict.fromkeys(binding.host for binding in bindings):
        masks = {r: frozenset(b.cores) for r, b in enumerate(bindings) if b.host == host}
        possible = frozenset().union(*(bindings[rank].possible_cores for rank in masks))
        for mask in {*masks.values(), frozenset().union(*masks.values())}:
            yield _Crowd(
                ranks=[rank for rank, cores in masks.items() if cores <= mask],
                host=host,
                cores=tuple(sorted(mask)),
                num_threads=num_threads,
                possible_cores=tuple(sorted(possible)),
                num_host_ranks=len(masks),
            )


def _bound_text(crowd: _Crowd) -> str:
    who = f"Rank{'s' * (len(crowd.ranks) > 1)} {ranges(crowd.ranks)}{_threads_text(crowd)}"
    return (
        f"{who} can only use {cores_text(crowd.cores)} of {crowd.host}, which has "
        f"{_counted(len(crowd.possible_cores), 'core')}."
    )


def _shared_text(crowd: _Crowd) -> str:
    ranks = f"{_counted(len(crowd.ranks), 'rank')}{_threads_text(crowd)}"
    return f"{crowd.host} has {_counted(len(crowd.cores), 'core')} for {ranks}."


def _threads_text(crowd: _Crowd) -> str:
    return f" of {crowd.num_threads} BLAS threads" if crowd.num_threads > 1 else ""


def _threads_remedy(crowd: _Crowd, launcher: str) -> str:
    fitting = max(1, len(crowd.cores) // crowd.num_host_ranks)
    more = f", or srun --cpus-per-task={crowd.num_threads}" if launcher == "srun" else ""
    return f"No rank uses more threads than it has cores; use --threads-per-rank {fitting}{more}."


def _binding_remedy(crowd: _Crowd, launcher: str) -> str:
    """Return the launcher's option that spreads the ranks over the host's cores."""
    each = crowd.num_threads
    if launcher == "lockstep":
        return (
            "Something keeps lockstep from the other cores: taskset, numactl, or a batch job that "
            "has asked for too few."
        )
    if crowd.even_load > 1:
        options = {
            "Open MPI": "mpiexec --bind-to none",
            "Intel MPI": "mpiexec -genv I_MPI_PIN=off",
            "Hydra": "mpiexec -bind-to none",
            "srun": "srun --cpu-bind=none",
        }
    else:
        options = {
            "Open MPI": f"mpiexec --map-by {f'slot:PE={each}' if each > 1 else 'core'} "
            "--bind-to core",
            "Intel MPI": f"mpiexec -genv I_MPI_PIN_DOMAIN={each}",
            "Hydra": f"mpiexec -bind-to core{f':{each}' if each > 1 else ''}",
            "srun": f"srun --cpu-bind=cores --cpus-per-task={each}",
        }
    if launcher not in options:
        return "Give each rank cores of its own by your launcher's options for binding."
    return f"Start the ranks by `{options[launcher]}` and without its other options for binding."


def _launcher(environment: Mapping[str, str], library: str | None, num_ranks: int) -> str:
    """Return who has started the ranks."""
    if STARTED_HERE in environment:
        return "lockstep"
    if "OMPI_COMM_WORLD_RANK" in environment:
        return "Open MPI"
    if "MPI_LOCALNRANKS" in environment:
        # Intel's mpiexec is a Hydra too, but has options of its own.
        return "Intel MPI" if "Intel" in (library or "") else "Hydra"
    if "SLURM_STEP_NUM_TASKS" in environment:
        return "srun"
    return "lockstep" if num_ranks == 1 else ""


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number > 1)}"
