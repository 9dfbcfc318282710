"""Cores and memory: what there is, and what a container or a batch job leaves of it."""

from collections.abc import Iterator

from lockstep.doctor.findings import Finding
from lockstep.parallel.binding import cores_text, own_binding
from lockstep.resources import (
    cpu_ration,
    free_memory_bytes,
    memory_limit_bytes,
    total_memory_bytes,
)
from lockstep.train import fingerprint

_TOPIC = "Machine"
_LITTLE_BYTES = 10**9


def examine() -> Iterator[Finding]:
    """Yield what is found about this host's cores and memory."""
    yield _cores()
    yield from _cpu_time()
    yield _memory()


def _cores() -> Finding:
    binding = own_binding()
    num_cores = len(binding.possible_cores)
    processor = fingerprint.machine()["processor"] or "Processor of unknown make"
    text = f"{processor}, {num_cores} core{'s' * (num_cores > 1)} on {binding.host}"
    figures = {"cores": list(binding.cores), "possible_cores": list(binding.possible_cores)}
    if binding.cores == binding.possible_cores:
        return Finding("ok", _TOPIC, f"{text}.", figures=figures)
    return Finding(
        "note",
        _TOPIC,
        f"{text}, of which this process may only use {cores_text(binding.cores)}.",
        "If that is not meant, look for taskset, numactl, the launcher's options for binding, or "
        "a batch job that has asked for too few cores.",
        figures,
    )


def _cpu_time() -> Iterator[Finding]:
    """Yield something if processor time is rationed, as by `docker --cpus`."""
    num_cores = len(own_binding().cores)
    ration = cpu_ration()
    if ration is not None and ration < num_cores:
        most = max(1, int(ration))
        yield Finding(
            "warning",
            _TOPIC,
            f"This container or job may only use the time of {ration:.3g} cores: with more ranks "
            "than that, all of them are halted many times a second.",
            f"Train on {most} rank{'s' * (most > 1)} at the most, or raise the limit (docker run "
            "--cpus, Kubernetes limits.cpu).",
            {"cpu_ration": ration},
        )


def _memory() -> Finding:
    total_bytes = total_memory_bytes()
    free_bytes = free_memory_bytes()
    limit_bytes = memory_limit_bytes()
    figures = {"total_bytes": total_bytes, "free_bytes": free_bytes, "limit_bytes": limit_bytes}
    text = f"{_gigabytes(total_bytes)} of memory"
    if free_bytes is not None:
        text += f", {_gigabytes(free_bytes)} of it free"
    if limit_bytes is not None:
        text += f"; this container or job may use {_gigabytes(limit_bytes)}"
    usable = min(size for size in (total_bytes, free_bytes, limit_bytes) if size is not None)
    if usable < _LITTLE_BYTES:
        remedy = "Ask for more, or end what else is running: ranks without memory are killed."
        return Finding("warning", _TOPIC, f"{text}.", remedy, figures)
    if limit_bytes is not None:
        remedy = "Ranks that together take more are killed without a word; then ask for more."
        return Finding("note", _TOPIC, f"{text}.", remedy, figures)
    return Finding("ok", _TOPIC, f"{text}.", figures=figures)


def _gigabytes(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:.1f} GB"
