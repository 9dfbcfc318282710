"""What a run's bits depend on beside its configuration: versions, machine, BLAS."""

import os
import platform
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

import lockstep
from lockstep.parallel.communicator import Communicator

_PACKAGES = ("numpy", "h5py", "mpi4py")
# Each BLAS library has a variable of its own for its threads, which wins over OpenMP's.
_THREAD_VARIABLES = {
    "openblas": "OPENBLAS_NUM_THREADS",
    "mkl": "MKL_NUM_THREADS",
    "blis": "BLIS_NUM_THREADS",
}
# What may pin the kernels or the threads of a BLAS library.
_BLAS_VARIABLES = (
    "OPENBLAS_CORETYPE",
    "OPENBLAS_L2_SIZE",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "BLIS_ARCH_TYPE",
    *_THREAD_VARIABLES.values(),
    "OMP_NUM_THREADS",
)


def versions(communicator: Communicator) -> dict[str, str]:
    """Return the versions of everything that takes part."""
    import importlib.metadata  # noqa: PLC0415 - slow to import, and only the root asks

    found = {"lockstep": lockstep.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "none"
    found["mpi"] = communicator.library or "none: single process"
    return found


def blas() -> dict[str, Any]:
    """Return which BLAS library NumPy uses, its kernels and threads, and what pins them."""
    library = _library()
    return {
        "library": library.get("internal_api", "unknown"),
        "version": library.get("version", "unknown"),
        "kernel": library.get("architecture", "unknown"),
        "threads": library.get("num_threads"),
        "pinned": {name: os.environ[name] for name in _BLAS_VARIABLES if name in os.environ},
    }


def _library() -> dict[str, Any]:
    libraries = [entry for entry in threadpool_info() if entry["user_api"] == "blas"]
    # SciPy brings another copy of the library, and NumPy's lies in a folder of NumPy's.
    libraries.sort(key=lambda entry: "numpy" not in Path(entry["filepath"]).parent.as_posix())
    return libraries[0] if libraries else {}


def threads_asked_for(environment: Mapping[str, str] = os.environ) -> int:
    """Return how many BLAS threads the user's environment asks for; 1 if it asks for none."""
    own_variable = _THREAD_VARIABLES.get(_library().get("internal_api", ""), "")
    for variable in (own_variable, "OMP_NUM_THREADS"):
        # OpenMP has lists, for nested levels.
        number = environment.get(variable, "").split(",")[0].strip()
        if number.isdigit() and int(number) > 0:
            return int(number)
    return 1


def kernels(communicator: Communicator) -> dict[str, int]:
    """Return the number of ranks by what computes; collective; see `kernels_by_rank`."""
    return counted(kernels_by_rank(communicator))


def kernels_by_rank(communicator: Communicator) -> list[str]:
    """Return what each rank computes with; collective.

    That is the BLAS library with its version, kernel and threads, and the newest SIMD extension
    that NumPy has found: some of its functions round differently with another one, in float64.
    NumPy's own version is told where the ranks have different ones; otherwise `versions` has it.
    """
    own = blas()
    numpys = communicator.gather_texts(np.__version__)
    version = f"{np.__version__} " if len(set(numpys)) > 1 else ""
    extensions = np.show_config(mode="dicts")["SIMD Extensions"]
    newest = (extensions.get("found") or ["baseline"])[-1]
    threads = f", {own['threads']} threads" if (own["threads"] or 1) > 1 else ""
    return communicator.gather_texts(
        f"{own['library']} {own['version']} {own['kernel']}{threads}, NumPy {version}{newest}"
    )


def machine() -> dict[str, Any]:
    """Return what the root's machine is."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _cpuinfo("model name") or platform.processor(),
        "cores": os.cpu_count(),
        "cpu_flags": _cpuinfo("flags"),
    }


def hosts(communicator: Communicator) -> dict[str, int]:
    """Return the number of ranks by host; collective."""
    return counted(communicator.gather_texts(socket.gethostname()))


def counted(names: Sequence[str]) -> dict[str, int]:
    """Return how often each name is there."""
    return {name: names.count(name) for name in dict.fromkeys(names)}


def _cpuinfo(name: str) -> str:
    """Return what Linux tells of the first processor, or nothing."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 - no real file
            entries = (line.partition(":") for line in lines)
            return next(text.strip() for key, _, text in entries if key.strip() == name)
    except (OSError, StopIteration):
        return ""
