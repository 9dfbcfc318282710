"""Every way to reduce, on whatever ranks this is started: each sum against the plain tree."""

from types import SimpleNamespace
from unittest import mock

import numpy as np
from mpi4py import MPI

from lockstep.parallel import mpi
from lockstep.parallel.choice import self_test
from lockstep.parallel.library import LibraryReduction
from lockstep.parallel.mpi import MPIRanks
from lockstep.parallel.subtotals import Subtotals
from lockstep.parallel.tree import block, tree_sum

SHAPES = [(5, 3), (4, 7), (8, 1)]
NUM_STEPS = 6


def leaves_of(step, virtual_ranks, dtype):
    generator = np.random.default_rng([step, virtual_ranks])
    size = sum(rows * columns for rows, columns in SHAPES)
    return generator.standard_normal((virtual_ranks, size)).astype(dtype)


# How the ranks may lie on the nodes of a cluster: the node of each rank.
PLACEMENTS = {
    "one node": lambda rank: 0,
    "no room for a window": lambda rank: 0,
    "two ranks a node": lambda rank: rank // 2,
    "round robin": lambda rank: rank % 2,
    "unequal nodes": lambda rank: min(rank, 1),
    "one rank a node": lambda rank: rank,
}


def world(placement):
    """All ranks, as if they lay on nodes so."""
    node_of = PLACEMENTS[placement]
    split = MPI.COMM_WORLD.Split(node_of(MPI.COMM_WORLD.rank), MPI.COMM_WORLD.rank)
    ranks = MPIRanks()
    ranks.split_by_node = lambda: split
    return ranks


def candidates(ranks, placement, virtual_ranks, dtype):
    """Every way to sum that may be chosen there."""
    free = 100 if placement == "no room for a window" else 10**9
    subtotals = Subtotals(
        block(ranks.rank, ranks.world_size, virtual_ranks), virtual_ranks, SHAPES, dtype
    )
    with mock.patch.object(mpi, "disk_usage", return_value=SimpleNamespace(free=free)):
        for make in [*ranks.ordered_ways(subtotals), *ranks.library_ways(subtotals)]:
            yield make()


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
        total, expected = reduction.reduce_scatter(), tree_sum(flat)
        for where in reduction.own:
            # As the optimizer does with its share.
            total[where] *= 2
        total, expected = reduction.all_gather(), expected * 2
        if isinstance(reduction, LibraryReduction):
            np.testing.assert_allclose(total, expected, rtol=1e-4, atol=1e-5)
        else:
            assert total.tobytes() == expected.tobytes(), (virtual_ranks, reduction.name)


def check_all(placement):
    names = set()
    ranks = world(placement)
    for dtype in ("float32", "float64"):
        for virtual_ranks in (1, 2, 3, 4, 5, 6, 7, 8, 12):
            if not 1 < ranks.world_size <= virtual_ranks:
                continue
            for reduction in candidates(ranks, placement, virtual_ranks, dtype):
                names.add(reduction.name)
                check(reduction, ranks, virtual_ranks, dtype)
                check_ownership(reduction, ranks)
                is_library = isinstance(reduction, LibraryReduction)
                self_test(reduction, ranks, virtual_ranks, in_order=not is_library)
                reduction.close()
    return names


def check_ownership(reduction, ranks):
    """Together, the ranks have all of the vector."""
    owned = np.zeros(sum(rows * columns for rows, columns in SHAPES), np.int64)
    for where in reduction.own:
        owned[where] = 1
    assert ranks.sum_counts(owned).all(), reduction.name


def main():
    ranks = MPIRanks()
    names = set().union(*(check_all(placement) for placement in PLACEMENTS))
    if ranks.rank == 0 and names:
        print(*sorted(names), sep="\n")

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
    gathered = ranks.gather_to_root(np.arange(ranks.rank))
    expected = [list(range(rank)) for rank in range(ranks.world_size)] if ranks.rank == 0 else []
    assert [part.tolist() for part in gathered] == expected
    group = ranks.first_ranks(2)
    assert (group is None) == (ranks.rank >= 2)
    if group is not None:
        assert group.sum_counts(np.array([1]))[0] == min(2, ranks.world_size)
    ranks.meet()
    if ranks.rank == 0:
        print("all ranks are done", flush=True)


if __name__ == "__main__":
    main()
