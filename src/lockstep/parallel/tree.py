"""The canonical tree: the one order in which the values of V virtual ranks are added.

The tree over the leaves [0, V) splits after the largest power of two that leaves something on
the right, at every level. So its left part is always a perfect binary tree, a node's place does
not depend on V, and for V a power of two it is the order of recursive doubling with the nearest
neighbour first. Which rank holds which leaf never matters: only whole nodes are ever added.

References
----------
The shape is that of Merkle trees over a log: B. Laurie, A. Langley, E. Kasper, "Certificate
Transparency", RFC 6962 (2013), section 2.1.
"""

from dataclasses import dataclass

import numpy as np

from lockstep.arrays import Array


@dataclass(frozen=True, order=True)
class Node:
    """The part of the tree over the leaves [start, stop)."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self.stop - self.start

    @property
    def children(self) -> tuple["Node", "Node"]:
        """The two nodes whose sum this one is."""
        middle = self.start + 2 ** ((self.size - 1).bit_length() - 1)
        return Node(self.start, middle), Node(middle, self.stop)


def block(rank: int, world_size: int, virtual_ranks: int) -> range:
    """Return the virtual ranks that a rank runs: contiguous, as even as can be."""
    return range(
        rank * virtual_ranks // world_size,
        (rank + 1) * virtual_ranks // world_size,
    )


def covering_nodes(leaves: range, virtual_ranks: int) -> list[Node]:
    """Return the largest nodes of the tree over [0, virtual_ranks) that make up `leaves`.

    They are what a rank can add on its own. There are at most 2 log2(virtual_ranks) of them.
    """

    def within(node: Node) -> list[Node]:
        if node.stop <= leaves.start or leaves.stop <= node.start:
            return []
        if leaves.start <= node.start and node.stop <= leaves.stop:
            return [node]
        left, right = node.children
        return within(left) + within(right)

    return within(Node(0, virtual_ranks))


def additions(root: Node, summands: list[Node]) -> list[tuple[int, int]]:
    """Return the additions that turn `summands` into their sum `root`, in order.

    Parameters
    ----------
    root : Node
        What is wanted.
    summands : list of Node
        Nodes that make up `root`, in order; leaves or whole subtrees.

    Returns
    -------
    list of (int, int)
        Each pair (i, j) says: add summand j to summand i, in place. The sum ends up in
        summand 0.
    """
    position = {node: index for index, node in enumerate(summands)}
    pairs = []

    def add(node: Node) -> int:
        if node in position:
            return position[node]
        left, right = (add(child) for child in node.children)
        pairs.append((left, right))
        return left

    add(root)
    return pairs


def tree_sum(leaves: Array) -> Array:
    """Add up along the first axis in the order of the canonical tree.

    Parameters
    ----------
    leaves : ndarray (virtual_ranks, ...)
        Left as it is.

    Returns
    -------
    ndarray (...)
        The sum.
    """
    partial = np.array(leaves)
    root = Node(0, len(leaves))
    for i, j in additions(root, [Node(leaf, leaf + 1) for leaf in range(root.stop)]):
        partial[i] += partial[j]
    total: Array = partial[0]
    return total
