"""How a process joins the other ranks."""

import os
from collections.abc import MutableMapping

from lockstep.errors import SharedError, UserError
from lockstep.parallel.communicator import Communicator
from lockstep.parallel.failure import end_on_exceptions
from lockstep.parallel.guard import guarded
from lockstep.parallel.launch import launched_as
from lockstep.parallel.single import SingleProcess

# Set by Slurm's `--mpi=pmi2`, and not by MPICH's own launcher.
_SLURM_PMI2 = "PMI_JOBID"
# By which of its network layers MPICH sends, where it has more than one.
_NETWORK = "MPIR_CVAR_CH4_NETMOD"


def connect() -> Communicator:
    """Return the communicator of this process.

    MPI is loaded only when a launcher has promised more than one rank.

    Raises
    ------
    SharedError
        When the library sees another number of ranks: usually one, and then every process
        would train alone and overwrite the others' files.
    UserError
        When no MPI library can be loaded, perhaps by this rank alone.
    """
    rank, promised = launched_as()
    if promised == 1:
        return SingleProcess()
    end_on_exceptions()
    choose_network(os.environ)
    with guarded(rank, promised):
        return _join(promised)


def choose_network(environment: MutableMapping[str, str]) -> None:
    """Have MPICH take the network layer whose ranks find each other under Slurm's pmi2.

    Parameters
    ----------
    environment : mapping
        This process's, which MPICH reads when it is started. A layer that is chosen there is
        kept, and a library that has only one takes no notice.

    Notes
    -----
    Over UCX, MPICH (5.0) hands its process manager 4096 bytes for an address of some hundreds:
    the rest is whatever lies behind it in memory, in lines of up to 1091 characters that are
    shortened where there are zeros. Slurm (22.05, and its source of 2026) takes the first 1024
    characters for the line, so now and then, ranks don't find each other. Over libfabric (OFI),
    the address is one short line.
    """
    if _SLURM_PMI2 in environment:
        environment.setdefault(_NETWORK, "ofi")


def _join(promised: int) -> Communicator:
    """Start MPI and the watchdogs; collective."""
    try:
        from lockstep.parallel.mpi import MPIRanks  # noqa: PLC0415 - loading it starts MPI
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"The launcher started {promised} ranks, but no MPI library can be loaded "
            f"({_first_line(error)}). Load your site's MPI module, or install one: "
            "pip install mpich."
        ) from error
    ranks = MPIRanks()
    if ranks.world_size != promised:
        raise SharedError(
            f"The launcher started {promised} ranks, but the MPI library sees "
            f"{ranks.world_size} ({ranks.library}): launcher and library don't belong together. "
            "Use the mpiexec of that library, or `srun --mpi=pmi2` for MPICH and "
            "`srun --mpi=pmix` for Open MPI."
        )
    ranks.begin_watch()
    return ranks


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0]
