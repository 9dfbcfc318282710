"""Ranks that have been started: where they run, on what, and how fast they add up."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import disk_usage
from time import perf_counter

import numpy as np
from threadpoolctl import threadpool_limits

from lockstep.doctor.findings import Finding, Severity
from lockstep.errors import SharedError
from lockstep.parallel.binding import Binding, cores_text, gather_bindings, own_cores, ranges
from lockstep.parallel.communicator import Communicator, Reduction
from lockstep.parallel.crowding import find_crowding
from lockstep.train import fingerprint

_TOPIC = "Ranks"
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - nothing is written there by name
# Vectors to add up: one whose time is all latency, and one whose time is all bandwidth.
_SMALL, _LARGE = 1_000, 1_000_000
_MEASURE_S = 0.5
# Between hosts; less is what plain Ethernet gives.
_SLOW_BYTES_PER_S = 2e8
# Parameters of a large network; there must be room for it in shared memory.
_MANY_PARAMETERS = 10_000_000


def examine(communicator: Communicator) -> Iterator[Finding]:
    """Yield what is found about the ranks, alike on all of them; collective."""
    bindings = gather_bindings(communicator)
    yield _places(bindings)
    threads = fingerprint.threads_asked_for()
    yield from _crowding(communicator, bindings, threads)
    # As in a training.
    with threadpool_limits(min(threads, len(own_cores())), user_api="blas"):
        yield _kernels(communicator)
    yield from _shared_memory(communicator, bindings)
    if communicator.world_size > 1:
        yield from _sums(communicator, num_hosts=len({one.host for one in bindings}))


def _places(bindings: Sequence[Binding]) -> Finding:
    lines = []
    for host in dict.fromkeys(one.host for one in bindings):
        ranks_by_cores: dict[str, list[int]] = {}
        for rank, one in enumerate(bindings):
            if one.host == host:
                ranks_by_cores.setdefault(cores_text(one.cores), []).append(rank)
        places = (
            f"rank{'s' * (len(ranks) > 1)} {ranges(ranks)} on {cores}"
            for cores, ranks in ranks_by_cores.items()
        )
        lines.append(f"{host}: {'; '.join(places)}")
    several = len(bindings) > 1
    head = f"{len(bindings)} rank{'s' * several} on {len(lines)} host{'s' * (len(lines) > 1)}:"
    return Finding(
        "ok",
        _TOPIC,
        "\n".join([head, *lines]),
        figures={"binding": [{"host": one.host, "cores": list(one.cores)} for one in bindings]},
    )


def _crowding(
    communicator: Communicator, bindings: Sequence[Binding], own_threads: int
) -> Iterator[Finding]:
    asked_for = communicator.gather_rows(np.array([own_threads]))
    threads = int(asked_for.max())
    crowding = find_crowding(bindings, threads, communicator.library)
    figures = {"threads_per_rank": asked_for.tolist()}
    each = f"{threads} BLAS thread{'s' * (threads > 1)}"
    if crowding is not None:
        severity: Severity = "warning" if crowding.is_mendable else "note"
        yield Finding(severity, _TOPIC, crowding.text, crowding.remedy, figures)
    elif threads > 1:
        yield Finding(
            "note",
            _TOPIC,
            f"{each} for each rank, as OMP_NUM_THREADS or a variable like it says; there are "
            "cores enough.",
            "One thread and more ranks are usually faster: --threads-per-rank 1.",
            figures,
        )
    else:
        yield Finding("ok", _TOPIC, f"{each} and a core for each rank.", figures=figures)


def _kernels(communicator: Communicator) -> Finding:
    kernels = fingerprint.kernels(communicator)
    if len(kernels) == 1:
        return Finding("ok", _TOPIC, f"All compute with {next(iter(kernels))}.")
    told = "; ".join(f"{count} with {name}" for name, count in sorted(kernels.items()))
    return Finding(
        "warning",
        _TOPIC,
        f"The ranks compute with different BLAS kernels or threads: {told}. So another placement "
        "of the ranks gives other bits.",
        "Take hosts of one kind, or set OPENBLAS_CORETYPE to the same for all ranks.",
        {"kernels": kernels},
    )


def _shared_memory(communicator: Communicator, bindings: Sequence[Binding]) -> Iterator[Finding]:
    """Yield whether the gradients of all ranks of a host fit into its shared memory."""
    free = disk_usage(_SHARED_MEMORY).free if _SHARED_MEMORY.is_dir() else -1
    free_by_rank = communicator.gather_rows(np.array([free], np.int64))
    hosts = [one.host for one in bindings]
    # One row for each rank's gradient, and one for their sum.
    room = {
        host: int(size_bytes) // (4 * (hosts.count(host) + 1))
        for host, size_bytes in zip(hosts, free_by_rank, strict=True)
        if size_bytes >= 0 and hosts.count(host) > 1
    }
    if not room:
        return
    host = min(room, key=lambda host: room[host])
    text = (
        f"Shared memory ({_SHARED_MEMORY}) of {host}: room for {room[host] / 1e6:.0f} million "
        f"parameters with {hosts.count(host)} ranks"
    )
    figures = {"room_for_parameters": room}
    if room[host] >= _MANY_PARAMETERS:
        yield Finding("ok", _TOPIC, f"{text}.", figures=figures)
    else:
        yield Finding(
            "warning",
            _TOPIC,
            f"{text}; larger networks are added up by messages, which is slower.",
            "Make it larger: docker run --shm-size=2g, or in Kubernetes a volume of medium Memory.",
            figures,
        )


def _sums(communicator: Communicator, num_hosts: int) -> Iterator[Finding]:
    try:
        # The reductions test themselves with sums that are known to the last bit.
        times_s = {
            (kind, length): _time_s(communicator, kind, length)
            for length in (_SMALL, _LARGE)
            for kind in ("ordered", "mpi")
        }
    except SharedError as error:
        yield Finding("broken", _TOPIC, str(error))
        return
    yield Finding("ok", _TOPIC, "Known numbers are added up right, to the last bit.")
    bytes_per_s = 4 * _LARGE / times_s["ordered", _LARGE][0]
    lines = [f"{'float32 numbers':18}{'ordered':>12}{'MPI_Allreduce':>16}"]
    lines += [
        f"{length:<18,}{_text(times_s['ordered', length][0]):>12}"
        f"{_text(times_s['mpi', length][0]):>16}"
        for length in (_SMALL, _LARGE)
    ]
    way = times_s["ordered", _LARGE][1]
    text = f"A sum over the ranks takes (ordered: {way}, {bytes_per_s / 1e9:.2g} GB/s):"
    figures = {
        f"{kind}_{length}": {"seconds": time_s, "way": name}
        for (kind, length), (time_s, name) in times_s.items()
    }
    is_slow = num_hosts > 1 and bytes_per_s < _SLOW_BYTES_PER_S
    yield Finding(
        "note" if is_slow else "ok",
        _TOPIC,
        "\n".join([text, *lines]),
        "That is slow between hosts. If yours have a faster network than Ethernet (InfiniBand, "
        "Omni-Path), use the site's MPI module, which knows it, rather than one from pip; "
        "otherwise take larger batches, or fewer hosts."
        if is_slow
        else "",
        figures,
    )


def _time_s(communicator: Communicator, kind: str, length: int) -> tuple[float, str]:
    """Return the mean seconds of a sum, of the slowest rank, and how it is carried out."""

    def add_up(reduction: Reduction) -> None:
        reduction.leaves[0][...] = 1
        reduction.add(0)
        reduction.reduce_scatter()
        reduction.all_gather()

    def rounds_s(num_rounds: int) -> float:
        communicator.meet()
        start_s = perf_counter()
        for _ in range(num_rounds):
            add_up(reduction)
        own_s = (perf_counter() - start_s) / num_rounds
        return float(communicator.gather_rows(np.array([own_s])).max())

    num_virtual_ranks = communicator.world_size
    reduction = communicator.reduction(kind, num_virtual_ranks, [(length, 1)], np.float32, add_up)
    # By and by, for where ranks take turns on a core a few rounds may be much faster than many.
    num_rounds = 3
    while (time_s := rounds_s(num_rounds)) * num_rounds < _MEASURE_S / 4:
        num_rounds *= 4
    name = reduction.name
    reduction.close()
    return time_s, name


def _text(time_s: float) -> str:
    return f"{1e6 * time_s:.0f} us" if time_s < 1e-2 else f"{1e3 * time_s:.0f} ms"
