"""Every way to reduce, on whatever ranks this is started: each sum against the plain tree."""

from types import SimpleNamespace
from unittest import mock

import numpy as np
from mpi4py import MPI

from lockstep.parallel import mpi
from lockstep.parallel.mpi import ExchangeReduction, LibraryReduction, MPIRanks, WindowReduction
from lockstep.parallel.tree import block, tree_sum

SHAPES = [(5, 3), (4, 7), (8, 1)]
NUM_STEPS = 6


def leaves_of(step, virtual_ranks, dtype):
    generator = np.random.default_rng([step, virtual_ranks])
    size = sum(rows * columns for rows, columns in SHAPES)
    return generator.standard_normal((virtual_ranks, size)).astype(dtype)


def reductions(ranks, virtual_ranks, dtype):
    """The one for a node, the one where that can't be, and the library's."""
    window = ranks.reduction("ordered", virtual_ranks, SHAPES, dtype)
    assert isinstance(window, WindowReduction)
    with mock.patch.object(mpi, "disk_usage", return_value=SimpleNamespace(free=100)):
        # A container with next to no shared memory.
        exchange = ranks.reduction("ordered", virtual_ranks, SHAPES, dtype)
    assert isinstance(exchange, ExchangeReduction)
    library = ranks.reduction("mpi", virtual_ranks, SHAPES, dtype)
    assert isinstance(library, LibraryReduction)
    return window, exchange, library


def check(reduction, ranks, virtual_ranks, dtype):
    own = list(block(ranks.rank, ranks.world_size, virtual_ranks))
    for step in range(NUM_STEPS):
        flat = leaves_of(step, virtual_ranks, dtype)
        ends = np.cumsum([rows * columns for rows, columns in SHAPES])[:-1]
        groups = np.split(flat[own], ends, axis=1)
        leaves = reduction.leaves
        for group in reversed(range(len(SHAPES))):
            leaves[group][...] = groups[group].reshape(len(own), *SHAPES[group])
            reduction.add(group)
        total, expected = reduction.total(), tree_sum(flat)
        if isinstance(reduction, LibraryReduction):
            np.testing.assert_allclose(total, expected, rtol=1e-4, atol=1e-5)
        else:
            assert total.tobytes() == expected.tobytes(), (virtual_ranks, type(reduction))


def main():
    ranks = MPIRanks()
    for dtype in ("float32", "float64"):
        for virtual_ranks in (1, 2, 3, 4, 5, 6, 7, 8, 12):
            if ranks.world_size <= virtual_ranks:
                for reduction in reductions(ranks, virtual_ranks, dtype):
                    check(reduction, ranks, virtual_ranks, dtype)

    texts = ["", "zwei ✓", "drei"]
    found = ranks.gather_texts(texts[ranks.rank % 3])
    assert found == [texts[rank % 3] for rank in range(ranks.world_size)]
    # Rank 0 has no rows at all.
    rows = ranks.gather_rows(np.full((ranks.rank, 2), ranks.rank, np.float32))
    expected = [rank for rank in range(ranks.world_size) for _ in range(rank)]
    assert rows[:, 1].tolist() == expected
    assert ranks.sum_counts(np.array([1, ranks.rank])).tolist() == [
        ranks.world_size, sum(range(ranks.world_size)),
    ]  # fmt: skip
    MPI.COMM_WORLD.Barrier()
    if ranks.rank == 0:
        print("all ranks are done", flush=True)


if __name__ == "__main__":
    main()
