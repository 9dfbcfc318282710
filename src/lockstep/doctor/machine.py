"""Cores and memory: what there is, and what a container or a batch job leaves of it."""

import os
from collections.abc import Iterator
from pathlib import Path

from lockstep.doctor.findings import Finding
from lockstep.parallel.binding import cores_text, own_binding
from lockstep.train import fingerprint

_TOPIC = "Machine"
# Where Linux keeps control groups, and tells those of a process.
_CGROUPS, _MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
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
    total_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free_bytes = _free_bytes()
    limit_bytes = memory_limit_bytes()
    if limit_bytes is not None and limit_bytes >= total_bytes:
        # An enormous number is how some systems say that there is none.
        limit_bytes = None
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


def cpu_ration(folder: Path = _CGROUPS) -> float | None:
    """Return the number of cores whose time this process may use; None without a limit."""
    rations = []
    for group in _groups(folder, "cpu"):
        told = _words(group / "cpu.max")
        if not told:
            told = [*_words(group / "cpu.cfs_quota_us"), *_words(group / "cpu.cfs_period_us")]
        # "max", or -1 in the first version, means no limit.
        if len(told) == 2 and told[0].isdigit():
            rations.append(int(told[0]) / int(told[1]))
    return min(rations, default=None)


def memory_limit_bytes(folder: Path = _CGROUPS) -> int | None:
    """Return the bytes that this process and its like may use; None without a limit."""
    limits = [
        int(word)
        for group in _groups(folder, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        for word in _words(group / name)
        if word.isdigit()
    ]
    return min(limits, default=None)


def _groups(folder: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control groups, old and new, and of those above."""
    try:
        lines = _MEMBERSHIP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = folder / controller if controllers else folder
        group = root / path.lstrip("/")
        # A container may see its own group as the topmost one.
        yield from (one for one in (group, *group.parents) if one.is_relative_to(root))


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _free_bytes() -> int | None:
    """Return what programs can still get, caches included; None where the system doesn't say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    sizes = dict(line.split(":", 1) for line in lines)
    return 1024 * int(sizes["MemAvailable"].split()[0]) if "MemAvailable" in sizes else None


def _gigabytes(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:.1f} GB"
