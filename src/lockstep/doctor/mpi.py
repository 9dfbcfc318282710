"""MPI, seen from a process that no launcher has started: whether it is there and works.

All of it is tried in other processes, for loading MPI would make this one a rank.
"""

import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import perf_counter

from lockstep.doctor import ranks
from lockstep.doctor.findings import Finding
from lockstep.errors import UserError
from lockstep.parallel.launch import (
    Launch,
    find_mpiexec,
    library_family,
    library_name,
    library_version,
    mpiexec_family,
)
from lockstep.parallel.single import SingleProcess

_TOPIC = "MPI"
_LIMIT_S, _PATIENCE_S = 15, 2
_NUM_TOLD_LINES = 5


def examine(num_ranks: int) -> Iterator[Finding]:
    """Yield what is found about MPI, and about ranks that are started for it.

    Parameters
    ----------
    num_ranks : int
        How many ranks to start.
    """
    try:
        library = library_version()
    except UserError as error:
        yield _no_library(error)
        yield from ranks.examine(SingleProcess())
        return
    version = importlib.metadata.version("mpi4py")
    yield Finding("ok", _TOPIC, f"{library_name(library)}, loaded by mpi4py {version}.")
    try:
        mpiexec = find_mpiexec(library)
    except UserError as error:
        yield _no_launcher(error)
        yield from _other_launcher(library, None)
        yield from ranks.examine(SingleProcess())
        return
    yield from _other_launcher(library, mpiexec)
    yield from _try_job(num_ranks)


def _no_library(error: UserError) -> Finding:
    mpiexec = shutil.which("mpiexec")
    if mpiexec is None:
        return Finding(
            "note",
            _TOPIC,
            "No MPI library: trainings run in a single process only.",
            "For several ranks: pip install mpich, or on a cluster load the site's MPI module.",
        )
    return Finding(
        "warning",
        _TOPIC,
        f"{error} But there is {mpiexec}.",
        "Load the module that it belongs to, or name its library: export "
        "MPI4PY_LIBMPI=/path/to/libmpi.so",
    )


def _no_launcher(error: UserError) -> Finding:
    if shutil.which("srun"):
        return Finding(
            "note",
            _TOPIC,
            f"{error}",
            "Here, it is srun: `srun --mpi=pmi2 -n 2 lockstep doctor` (pmix for Open MPI) tries "
            "it out.",
        )
    return Finding(
        "broken",
        _TOPIC,
        f"{error}",
        "Put the bin folder of that library on the PATH, or install a library with its launcher: "
        "pip install mpich.",
    )


def _other_launcher(library: str, mpiexec: Path | None) -> Iterator[Finding]:
    """Yield a warning if the first mpiexec on the PATH is of no use for the library."""
    first = shutil.which("mpiexec")
    family = mpiexec_family(first) if first else ""
    if first is None or family == library_family(library):
        return
    yield Finding(
        "warning",
        _TOPIC,
        f"The first mpiexec on the PATH, {first}, "
        f"{f'belongs to {family}' if family else 'does not even tell its version'}.",
        f"Start ranks with `lockstep train -n`, or with {mpiexec}." if mpiexec else "",
    )


def _try_job(num_ranks: int) -> Iterator[Finding]:
    """Start ranks, and yield what they find."""
    command, environment = Launch(num_ranks).command(["doctor", "--json", "--only-ranks"])
    start_s = perf_counter()
    output, errors, trouble = _run(command, environment)
    duration_s = perf_counter() - start_s
    found = _findings_of(output)
    if found:
        yield Finding(
            "ok",
            _TOPIC,
            f"{num_ranks} ranks, started by {command[0]}, find each other.",
            figures={"job_s": duration_s},
        )
        yield from found
        return
    told = "\n".join(f"{output}{errors}".strip().splitlines()[-_NUM_TOLD_LINES:])
    yield Finding(
        "broken",
        _TOPIC,
        f"{num_ranks} ranks, started by {command[0]}, don't work: {trouble}.\n{told}".rstrip(),
        f"Try `{command[0]} -n {num_ranks} hostname`. If that fails too, install the MPI library "
        "again, or use the site's; until then, train in one process.",
    )


def _run(command: list[str], environment: dict[str, str]) -> tuple[str, str, str]:
    """Run a job for a limited time; return both outputs and how it has ended."""
    with subprocess.Popen(  # noqa: S603 - our own program
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # All of it can be ended at once.
        start_new_session=True,
    ) as job:
        try:
            output, errors = job.communicate(timeout=_LIMIT_S)
        except subprocess.TimeoutExpired:
            # Launchers end their ranks if they are given the time for it.
            os.killpg(job.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                job.wait(_PATIENCE_S)
            with suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)
            return *job.communicate(), f"they were not done after {_LIMIT_S} s"
    return output, errors, f"they ended with exit code {job.returncode}"


def _findings_of(output: str) -> list[Finding]:
    """Return what the root has told; MPI libraries may have written more."""
    for line in output.splitlines():
        if line.startswith('{"usable"'):
            return [Finding(**one) for one in json.loads(line)["findings"]]
    return []
