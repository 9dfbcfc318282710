from threadpoolctl import threadpool_info

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
