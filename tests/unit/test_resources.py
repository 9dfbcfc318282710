"""Limits of control groups, old and new, and memory as Linux tells it; real ones are elsewhere."""

import socket
from pathlib import Path

import pytest

from lockstep import resources
from lockstep.resources import (
    cpu_ration,
    free_memory_bytes,
    memory_limit_bytes,
    memory_rooms,
    total_memory_bytes,
)

HOST = socket.gethostname()


@pytest.fixture(autouse=True)
def membership(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "_MEMBERSHIP", tmp_path / "membership")
    (tmp_path / "membership").write_text("4:cpuacct,cpu:/job\n2:memory:/job\n0::/job/step\n")


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("files", "ration"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
    ],
)
def test_rations_of_processor_time(tmp_path, files, ration):
    write(tmp_path, files)
    assert cpu_ration(tmp_path) == ration


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"memory.max": "max\n"}, None),
        ({"memory.max": "4000\n"}, 4000),
        # The narrowest counts, wherever it is.
        ({"memory.max": "4000\n", "job/memory.max": "3000\n", "job/step/memory.max": "max"}, 3000),
        ({"memory/job/memory.limit_in_bytes": "2000\n"}, 2000),
        ({"memory/elsewhere/memory.limit_in_bytes": "2000\n"}, None),
        # No limit, as the first version says it.
        ({"memory/job/memory.limit_in_bytes": "9223372036854771712\n"}, None),
    ],
)
def test_limits_of_memory(tmp_path, files, limit):
    write(tmp_path, files)
    assert memory_limit_bytes(tmp_path) == limit


def test_what_is_left_of_a_control_group(tmp_path):
    write(
        tmp_path,
        {
            "memory.max": "max\n",
            "job/memory.max": "9000\n",
            "job/memory.current": "5000\n",
            # The caches of files make room for a program; other memory doesn't.
            "job/memory.stat": "anon 3000\nfile 2000\ninactive_file 700\nactive_file 300\n",
            "memory/job/memory.limit_in_bytes": "8000\n",
            "memory/job/memory.usage_in_bytes": "2000\n",
            "memory/job/memory.stat": "inactive_file 1\ntotal_inactive_file 500\n",
            # Used beyond a limit that was lowered meanwhile.
            "job/step/memory.max": "100\n",
            "job/step/memory.current": "200\n",
        },
    )
    assert memory_rooms(tmp_path, tmp_path / "none") == {
        f"{HOST}, limited by {tmp_path}/job": 9000 - (5000 - 700 - 300),
        f"{HOST}, limited by {tmp_path}/memory/job": 8000 - (2000 - 500),
        f"{HOST}, limited by {tmp_path}/job/step": 0,
    }


def test_what_is_left_of_the_machine(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  90 kB\nMemAvailable:  70 kB\nSwapFree:  5 kB\nHugePages: 0\n")
    assert free_memory_bytes(meminfo) == 70 * 1024
    assert memory_rooms(tmp_path, meminfo) == {HOST: 75 * 1024}


def test_a_system_that_tells_nothing_has_no_rooms(tmp_path):
    (tmp_path / "membership").unlink()
    assert memory_rooms(tmp_path, tmp_path / "none") == {}
    assert free_memory_bytes(tmp_path / "none") is None


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="no Linux")
def test_this_machine_has_memory():
    assert 0 < free_memory_bytes() <= total_memory_bytes()
