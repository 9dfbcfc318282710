"""The canonical tree and a rank's part of it."""

import numpy as np
import pytest

from lockstep.parallel.subtotals import Subtotals
from lockstep.parallel.tree import Node, additions, block, covering_nodes, tree_sum

WORLDS = [
    (world_size, virtual_ranks)
    for world_size in (1, 2, 3, 4, 5, 6)
    for virtual_ranks in (1, 2, 3, 5, 6, 7, 8, 12, 13, 64)
    if world_size <= virtual_ranks
]


def test_the_tree_splits_after_the_largest_power_of_two():
    assert Node(0, 8).children == (Node(0, 4), Node(4, 8))
    assert Node(0, 5).children == (Node(0, 4), Node(4, 5))
    assert Node(0, 6).children == (Node(0, 4), Node(4, 6))
    assert Node(4, 7).children == (Node(4, 6), Node(6, 7))
    assert Node(0, 2).children == (Node(0, 1), Node(1, 2))


def test_the_order_of_the_sum_worked_by_hand():
    # In float32, 1e8 swallows a 1: ((a + b) + (c + d)) + e is told from any other order.
    leaves = np.array([1e8, 1.0, -1e8, 1.0, 1.0], np.float32)
    assert tree_sum(leaves) == np.float32(1.0)
    assert leaves.tolist() == [1e8, 1.0, -1e8, 1.0, 1.0]
    one, two, three, four, five = leaves
    assert tree_sum(leaves) == ((one + two) + (three + four)) + five
    assert (((one + two) + three) + four) + five == np.float32(2.0)


@pytest.mark.parametrize(("world_size", "virtual_ranks"), WORLDS)
def test_blocks_and_their_nodes_partition_the_leaves(world_size, virtual_ranks):
    blocks = [block(rank, world_size, virtual_ranks) for rank in range(world_size)]
    assert [leaf for leaves in blocks for leaf in leaves] == list(range(virtual_ranks))
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1
    for leaves in blocks:
        nodes = covering_nodes(leaves, virtual_ranks)
        assert [leaf for node in nodes for leaf in range(node.start, node.stop)] == list(leaves)
        assert len(nodes) <= 2 * max(1, virtual_ranks.bit_length())


def test_additions_use_each_summand_once_and_end_in_the_first():
    nodes = [Node(0, 4), Node(4, 6), Node(6, 7)]
    assert additions(Node(0, 7), nodes) == [(1, 2), (0, 1)]
    assert additions(Node(0, 4), [Node(0, 4)]) == []


@pytest.mark.parametrize(("world_size", "virtual_ranks"), WORLDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_subtotals_of_any_division_add_up_to_the_same_bits(world_size, virtual_ranks, dtype):
    shapes = [(3, 5), (4, 2), (1, 7)]
    generator = np.random.default_rng(virtual_ranks)
    groups = [generator.standard_normal((virtual_ranks, *shape)).astype(dtype) for shape in shapes]
    flat = np.concatenate([group.reshape(virtual_ranks, -1) for group in groups], axis=1)

    partial, nodes = [], []
    for rank in range(world_size):
        leaves_of_rank = block(rank, world_size, virtual_ranks)
        subtotals = Subtotals(leaves_of_rank, virtual_ranks, shapes, dtype)
        totals = np.full((len(subtotals.nodes), flat.shape[1]), np.nan, dtype)
        leaves = subtotals.leaves(totals)
        for group in reversed(range(len(shapes))):
            leaves[group][...] = groups[group][list(leaves_of_rank)]
            subtotals.add(group, leaves[group], totals)
        partial += list(totals)
        nodes += subtotals.nodes
    for left, right in additions(Node(0, virtual_ranks), nodes):
        partial[left] = partial[left] + partial[right]
    assert partial[0].tobytes() == tree_sum(flat).tobytes()
