"""What the system leaves this process of memory and of the cores' time."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

# Where Linux keeps control groups, tells those of a process, and the memory of the machine.
_CGROUPS, _MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_MEMINFO = Path("/proc/meminfo")
_FILE_CACHES = ("active_file", "inactive_file")


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


def total_memory_bytes() -> int:
    """Return the size of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_memory_bytes(meminfo: Path = _MEMINFO) -> int | None:
    """Return what programs can still get, caches included; None where the system doesn't say."""
    return _table(meminfo, 1024).get("MemAvailable")


def memory_limit_bytes(folder: Path = _CGROUPS) -> int | None:
    """Return the bytes that this process and its like may use; None without a limit."""
    return min((limit for _, limit in _memory_limits(folder)), default=None)


def memory_rooms(folder: Path = _CGROUPS, meminfo: Path = _MEMINFO) -> dict[str, int]:
    """Return what is left of each memory that this process shares with others.

    That is the machine's, and that of each of its control groups which has a limit (a container,
    a batch job). Processes that name the same room share it.

    Returns
    -------
    dict of str to int
        Bytes by room, in words. Empty where the system doesn't tell.
    """
    host = socket.gethostname()
    rooms = {}
    machine = _table(meminfo, 1024)
    if "MemAvailable" in machine:
        # What others have in memory and don't use may move to the swap space.
        rooms[host] = machine["MemAvailable"] + machine.get("SwapFree", 0)
    for group, limit in _memory_limits(folder):
        used = _used_bytes(group)
        if used is not None:
            rooms[f"{host}, limited by {group}"] = max(0, limit - used)
    return rooms


def _memory_limits(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield the control groups of this process that have a limit, and the limits in bytes."""
    for group in _groups(folder, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            for word in _words(group / name):
                # "max" means none in the second version, an enormous number in the first.
                if word.isdigit() and int(word) < total_memory_bytes():
                    yield group, int(word)


def _used_bytes(group: Path) -> int | None:
    """Return what a control group uses, but for the caches of files, which make room."""
    used = [*_words(group / "memory.current"), *_words(group / "memory.usage_in_bytes")]
    if not used:
        return None
    told = _table(group / "memory.stat", 1)
    # The first version's plain numbers leave out the groups below.
    caches = (told.get(f"total_{name}", told.get(name, 0)) for name in _FILE_CACHES)
    return int(used[0]) - sum(caches)


def _groups(folder: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control groups, old and new, and of those above."""
    for line in _text(_MEMBERSHIP).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = folder / controller if controllers else folder
        group = root / path.lstrip("/")
        # A container may see its own group as the topmost one.
        yield from (one for one in (group, *group.parents) if one.is_relative_to(root))


def _table(path: Path, unit_bytes: int) -> dict[str, int]:
    """Read a file of names and sizes, one to a line."""
    lines = (line.split() for line in _text(path).splitlines())
    return {
        words[0].rstrip(":"): int(words[1]) * unit_bytes
        for words in lines
        if len(words) > 1 and words[1].isdigit()
    }


def _words(path: Path) -> list[str]:
    return _text(path).split()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
