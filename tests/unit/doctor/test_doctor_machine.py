"""Limits of control groups, old and new; real ones are elsewhere."""

import os

import pytest

from lockstep.doctor import machine
from lockstep.doctor.machine import cpu_ration, memory_limit_bytes


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
def test_rations_of_processor_time(tmp_path, monkeypatch, files, ration):
    write(tmp_path, files)
    monkeypatch.setattr(machine, "_MEMBERSHIP", tmp_path / "membership")
    (tmp_path / "membership").write_text("4:cpuacct,cpu:/job\n2:memory:/job\n0::/job/step\n")
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
    ],
)
def test_limits_of_memory(tmp_path, monkeypatch, files, limit):
    write(tmp_path, files)
    monkeypatch.setattr(machine, "_MEMBERSHIP", tmp_path / "membership")
    (tmp_path / "membership").write_text("4:cpuacct,cpu:/job\n2:memory:/job\n0::/job/step\n")
    assert memory_limit_bytes(tmp_path) == limit


def test_limits_become_findings(monkeypatch):
    monkeypatch.setattr(machine, "cpu_ration", lambda: 0.5)
    monkeypatch.setattr(machine, "memory_limit_bytes", lambda: 5 * 10**8)
    cores, time, memory = machine.examine()
    assert cores.figures["cores"] == sorted(os.sched_getaffinity(0))
    assert time.severity == "warning"
    assert "the time of 0.5 cores" in time.text
    assert "1 rank at the most" in time.remedy
    assert memory.severity == "warning"
    assert "may use 0.5 GB" in memory.text
