import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from lockstep.parallel.single import SingleProcess
from lockstep.train import fingerprint


def test_the_blas_is_numpys_own_and_not_scipys():
    import scipy.linalg  # noqa: F401, PLC0415 - brings another copy of the library

    infos = [info for info in threadpool_info() if info["user_api"] == "blas"]
    numpys = [info for info in infos if "scipy" not in info["filepath"]]
    found = fingerprint.blas()
    assert (found["version"], found["kernel"]) in [
        (info["version"], info["architecture"]) for info in numpys or infos
    ]


def test_ranks_are_counted_by_host_and_kernel():
    class Ranks(SingleProcess):
        def gather_texts(self, text):
            return [text, "another", text]

    assert list(fingerprint.hosts(Ranks()).values()) == [2, 1]
    assert list(fingerprint.kernels(Ranks()).values()) == [2, 1]


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({}, 1),
        ({"OMP_NUM_THREADS": "4"}, 4),
        ({"OMP_NUM_THREADS": "4,2"}, 4),
        ({"OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "2"}, 2),
        ({"OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "0"}, 3),
        ({"OMP_NUM_THREADS": "many"}, 1),
        # Another library's.
        ({"MKL_NUM_THREADS": "4"}, 1),
    ],
)
def test_the_librarys_own_variable_wins_over_that_of_openmp(monkeypatch, environment, threads):
    monkeypatch.setattr(fingerprint, "_library", lambda: {"internal_api": "openblas"})
    assert fingerprint.threads_asked_for(environment) == threads


def test_threads_are_part_of_what_computes():
    with threadpool_limits(1, user_api="blas"):
        (alone,) = fingerprint.kernels(SingleProcess())
    with threadpool_limits(2, user_api="blas"):
        (two,) = fingerprint.kernels(SingleProcess())
    assert "threads" not in alone
    assert ", 2 threads," in two
