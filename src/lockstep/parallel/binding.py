"""Which cores each rank may run on."""

import json
import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from lockstep.parallel.communicator import Communicator


@dataclass(frozen=True)
class Binding:
    """Where a rank may run.

    Parameters
    ----------
    host : str
        Its host.
    cores : tuple of int
        The cores that it may run on: its affinity mask.
    possible_cores : tuple of int
        The cores that it might be given: those of its container or batch job.
    """

    host: str
    cores: tuple[int, ...]
    possible_cores: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.host}, {cores_text(self.cores)}"


def own_cores() -> tuple[int, ...]:
    """Return the cores that this process may run on."""
    if not hasattr(os, "sched_getaffinity"):  # macOS binds nothing
        return tuple(range(os.cpu_count() or 1))
    return tuple(sorted(os.sched_getaffinity(0)))


def own_binding() -> Binding:
    """Return where this process may run."""
    return Binding(socket.gethostname(), own_cores(), _possible_cores())


def _possible_cores() -> tuple[int, ...]:
    """Ask for all cores for a moment: the kernel grants those of the container or batch job."""
    bound_to = own_cores()
    if not hasattr(os, "sched_setaffinity"):
        return bound_to
    try:
        os.sched_setaffinity(0, range(os.sysconf("SC_NPROCESSORS_CONF")))
        possible = own_cores()
        os.sched_setaffinity(0, bound_to)
    except OSError:
        return bound_to
    return possible


def gather_bindings(communicator: Communicator) -> list[Binding]:
    """Return where each rank may run, on every rank; collective."""
    told = communicator.gather_texts(json.dumps(asdict(own_binding())))
    return [
        Binding(one["host"], tuple(one["cores"]), tuple(one["possible_cores"]))
        for one in map(json.loads, told)
    ]


def cores_text(cores: Sequence[int]) -> str:
    """Write core numbers as `core 3` or `cores 0-3, 8`."""
    return f"core{'s' if len(cores) > 1 else ''} {ranges(cores)}"


def ranges(numbers: Iterable[int]) -> str:
    """Write whole numbers as ranges: `0-3, 8`."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
