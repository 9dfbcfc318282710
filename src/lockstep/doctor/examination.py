"""The whole look at a machine."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from lockstep.doctor import blas, machine, mpi, ranks, storage
from lockstep.doctor.findings import Finding
from lockstep.parallel.communicator import Communicator
from lockstep.parallel.launch import library_name
from lockstep.parallel.verdict import on_root


def examine(
    communicator: Communicator, num_ranks: int, data: Path | None, results: Path
) -> Iterator[Finding]:
    """Yield what is found, as it is found; collective.

    Parameters
    ----------
    communicator : Communicator
        The ranks that a launcher has started, or a single process, which starts some itself.
    num_ranks : int
        How many.
    data : Path, optional
        A data set to read.
    results : Path
        Where run folders are to live.

    Yields
    ------
    Finding
        On the root all of them; elsewhere those that all ranks find together.
    """
    yield from _by_root(communicator, machine.examine)
    if communicator.world_size > 1:
        library = library_name(communicator.library or "")
        text = f"{library}: the launcher's {communicator.world_size} ranks find each other."
        yield Finding("ok", "MPI", text)
        yield from ranks.examine(communicator)
    else:
        yield from mpi.examine(num_ranks)
    yield from _by_root(communicator, blas.examine)
    yield from _by_root(communicator, lambda: storage.examine(data, results))


def _by_root(communicator: Communicator, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Let the root look, while the others sleep."""
    return on_root(communicator, lambda: list(look())) or []
