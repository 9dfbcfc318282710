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

from collections.abc import Iterable, Sequence
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


def covering_nodes(leaves: Iterable[int], virtual_ranks: int) -> list[Node]:
    """Return the largest nodes of the tree over [0, virtual_ranks) that make up `leaves`.

    They are what a rank, or the ranks of one node of the cluster, can add on their own. Of a
    contiguous block there are at most 2 log2(virtual_ranks).
    """
    held = set(leaves)

    def within(node: Node) -> list[Node]:
        num_held = len(held.intersection(range(node.start, node.stop)))
        if num_held == 0:
            return []
        if num_held == node.size:
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
        Nodes that make up `root`, leaves or whole subtrees. Others among them are left alone.

    Returns
    -------
    list of (int, int)
        Each pair (i, j) says: add summand j to summand i, in place. The sum ends up in the
        first one of the last pair, which is the leftmost.
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


def single_leaves(leaves: range) -> list[Node]:
    """Return the leaves as nodes."""
    return [Node(leaf, leaf + 1) for leaf in leaves]


def add_rows(rows: Sequence[Array] | Array, pairs: Sequence[tuple[int, int]], out: Array) -> None:
    """Carry out `additions` on rows, which are overwritten, and write the sum to `out`.

    Parameters
    ----------
    rows : sequence of ndarray (length,)
        The summands.
    pairs : sequence of (int, int)
        As `additions` gives them. Without any, the sum is the only row.
    out : ndarray (length,)
        May be the row in which the sum ends up.
    """
    if not pairs:
        np.copyto(out, rows[0])
        return
    *inner, (i, j) = pairs
    for left, right in inner:
        np.add(rows[left], rows[right], out=rows[left])
    np.add(rows[i], rows[j], out=out)


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
    root = Node(0, len(leaves))
    rows = np.array(leaves).reshape(len(leaves), -1)
    total = np.empty(rows.shape[1], rows.dtype)
    add_rows(rows, additions(root, single_leaves(range(root.stop))), total)
    return total.reshape(leaves.shape[1:])
