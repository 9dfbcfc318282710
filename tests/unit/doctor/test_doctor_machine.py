"""Cores and memory as findings; what the system tells of them is found elsewhere."""

import os

from lockstep.doctor import machine


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
