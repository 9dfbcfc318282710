"""What ranks find together, with ranks that were made up; real ones are elsewhere."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest

from lockstep.doctor import ranks
from lockstep.errors import SharedFailureError
from lockstep.parallel.single import SingleProcess


@pytest.fixture(autouse=True)
def no_threads_asked_for(monkeypatch):
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(variable, raising=False)


class Ranks(SingleProcess):
    """A world of ranks that say the same as this one, apart from what is given."""

    library = "MPICH Version: 5.0.2"

    def __init__(self, hosts, texts=()):
        self.hosts = hosts
        self.world_size = len(hosts)
        self.texts = texts

    def gather_texts(self, text):
        if text.startswith('{"host"'):
            return [json.dumps(json.loads(text) | {"host": host}) for host in self.hosts]
        return [text, *(self.texts or [text] * (self.world_size - 1))]

    def gather_rows(self, rows):
        return np.repeat(rows, self.world_size, axis=0)


def by_text(findings, words):
    (found,) = [finding for finding in findings if words in finding.text]
    return found


def test_a_single_process_has_no_sums():
    findings = list(ranks.examine(SingleProcess()))
    assert "1 rank on 1 host" in findings[0].text
    assert not any("sum" in finding.text for finding in findings)


def test_places_and_sums_of_ranks():
    findings = list(ranks.examine(Ranks(["alpha", "beta", "alpha"])))
    places = by_text(findings, "3 ranks on 2 hosts")
    assert "alpha: ranks 0, 2 on core" in places.text
    assert "beta: rank 1 on core" in places.text
    assert by_text(findings, "to the last bit").severity == "ok"
    sums = by_text(findings, "A sum over the ranks")
    assert set(sums.figures) == {"ordered_1000", "mpi_1000", "ordered_1000000", "mpi_1000000"}
    assert all(one["seconds"] > 0 for one in sums.figures.values())


def test_different_kernels_are_named():
    found = by_text(ranks.examine(Ranks(["alpha", "beta"], ["another"])), "1 with another")
    assert found.severity == "warning"
    assert "OPENBLAS_CORETYPE" in found.remedy


def test_wrong_sums_are_broken(monkeypatch):
    def fail(*arguments):
        raise SharedFailureError("the reduction has failed its self-test")

    world = Ranks(["alpha"] * 2)
    monkeypatch.setattr(world, "reduction", fail)
    assert by_text(ranks.examine(world), "self-test").severity == "broken"


def test_little_shared_memory_is_named(monkeypatch):
    # That of a Docker container: rows of two ranks and their sum, 4 bytes a number.
    monkeypatch.setattr(ranks, "disk_usage", lambda path: SimpleNamespace(free=64_000_000))
    found = by_text(ranks.examine(Ranks(["alpha"] * 2)), "Shared memory")
    assert found.severity == "warning"
    assert "room for 5 million parameters with 2 ranks" in found.text
    assert "--shm-size" in found.remedy


def test_a_slow_network_is_named(monkeypatch):
    monkeypatch.setattr(ranks, "_SLOW_BYTES_PER_S", 1e18)
    found = by_text(ranks.examine(Ranks(["alpha", "beta"])), "A sum over the ranks")
    assert found.severity == "note"
    assert "InfiniBand" in found.remedy
    found = by_text(ranks.examine(Ranks(["alpha", "alpha"])), "A sum over the ranks")
    assert found.remedy == ""


def test_threads_that_the_user_has_asked_for_are_told(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "999")
    # As where nothing keeps the tests themselves from any core.
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(os.cpu_count()), raising=False)
    found = by_text(ranks.examine(SingleProcess()), "999 BLAS threads")
    assert found.severity == "warning"
    assert "--threads-per-rank" in found.remedy
