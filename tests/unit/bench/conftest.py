import pytest

from lockstep.bench.peers.peer import UnavailableError
from lockstep.bench.reduction_measurement import Measurement


def measurement(**changes):
    facts = {
        "network": "784-8-10",
        "num_parameters": 6370,
        "global_batch_size": 32,
        "num_ranks": 2,
        "num_steps": 10,
        "is_crowded": False,
        # The whole machine is slow in the second round, and the ratios don't show it.
        "step_s": {
            "ordered": [0.002, 0.020, 0.003],
            "mpi": [0.004, 0.040, 0.002],
            "none": [0.001, 0.010, 0.002],
        },
        "ways": {"ordered": ["shared memory"] * 3, "mpi": ["whole"] * 3, "none": ["one"] * 3},
    }
    return Measurement(**{**facts, **changes})


@pytest.fixture
def measurements():
    return [
        measurement(),
        measurement(num_ranks=4, is_crowded=True),
        measurement(network="784-16-10", num_ranks=2),
        measurement(network="784-16-10", num_ranks=4, is_crowded=True),
    ]


@pytest.fixture
def facts():
    return {
        "command": "lockstep bench reduction --ranks=2,4",
        "date": "2026-01-02T03:04:05+00:00",
        "nodes": 1,
        "machine": {
            "system": "Linux x86_64", "processor": "A Processor", "cores": 2, "cpu_flags": "avx2",
        },
        "versions": {"lockstep": "0.1.0", "numpy": "2.0", "mpi": "MPICH 4"},
        "blas": {
            "library": "openblas", "version": "0.3", "kernel": "Haswell", "threads": 1,
            "pinned": {"OPENBLAS_CORETYPE": "Haswell"},
        },
    }  # fmt: skip


class AbsentPeer:
    name = "absent"

    def start(self, task):
        raise UnavailableError("it is away")


@pytest.fixture
def absent_peer():
    return AbsentPeer()
