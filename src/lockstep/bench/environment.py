"""Where and how a benchmark was run: what its figures mean nothing without."""

from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lockstep.parallel.communicator import Communicator
from lockstep.train import fingerprint

# They choose the kernels of OpenBLAS, which makes more of a difference than any reduction.
_PINS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def environment(
    communicator: Communicator, command: str, packages: Iterable[str] = ()
) -> dict[str, Any]:
    """Return machine, versions, BLAS, command and date; collective.

    Parameters
    ----------
    communicator : Communicator
        All ranks.
    command : str
        What repeats the benchmark.
    packages : iterable of str
        What takes part beside Lockstep; their versions are told too.
    """
    num_nodes = len(fingerprint.hosts(communicator))
    return {
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "nodes": num_nodes,
        "machine": fingerprint.machine(),
        "versions": fingerprint.versions(communicator) | {one: _version(one) for one in packages},
        "blas": fingerprint.blas(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def header(facts: dict[str, Any]) -> dict[str, str]:
    """Return what a reader wants to know of an environment, by title."""
    machine, versions, blas = facts["machine"], dict(facts["versions"]), facts["blas"]
    nodes = f"{facts['nodes']} nodes of " if facts["nodes"] > 1 else ""
    mpi = versions.pop("mpi")
    pins = [f"{name} {blas['pinned'].get(name, 'not set')}" for name in _PINS]
    return {
        "Machine": f"{nodes}{machine['processor']}, {machine['cores']} cores, {machine['system']}",
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "MPI": mpi,
        "BLAS": f"{blas['library']} {blas['version']}, kernel {blas['kernel']}, threads per rank "
        f"{blas['threads']}; {', '.join(pins)}",
        "Command": facts["command"],
        "Date": facts["date"],
    }
