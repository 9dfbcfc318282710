"""A rank's own part of the ordered sum: its virtual ranks' gradients, added as they come."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import prod

import numpy as np
from numpy.typing import DTypeLike

from lockstep.arrays import Array
from lockstep.parallel.tree import add_rows, additions, covering_nodes, single_leaves


class Subtotals:
    """Adds the gradients of a block of virtual ranks to the largest whole nodes of the tree.

    The backward pass writes one parameter group (a layer) of all virtual ranks at a time to
    `leaves`, and `add` adds it up at once, while it is in the cache. Groups share one buffer, so
    a leaf's gradient is never kept whole. A single virtual rank has nothing to add: its leaves
    are the subtotal itself.

    Parameters
    ----------
    virtual_ranks : range
        The block that this rank runs; not empty.
    num_virtual_ranks : int
        V, the leaves of the whole tree.
    shapes : sequence of tuple of int
        Of the parameter groups, in the order of the flat vector.
    dtype : dtype
        Of the gradients.
    """

    def __init__(
        self,
        virtual_ranks: range,
        num_virtual_ranks: int,
        shapes: Sequence[tuple[int, ...]],
        dtype: DTypeLike,
    ) -> None:
        self.nodes = covering_nodes(virtual_ranks, num_virtual_ranks)
        self.dtype = np.dtype(dtype)
        self.num_virtual_ranks = num_virtual_ranks
        self._shapes = shapes
        ends = list(accumulate(map(prod, shapes)))
        self.slices = [slice(start, end) for start, end in pairwise([0, *ends])]
        self.num_parameters = ends[-1]
        self._num_leaves = len(virtual_ranks)
        self._first_leaf = virtual_ranks.start
        self._additions = [
            additions(node, single_leaves(range(node.start, node.stop))) for node in self.nodes
        ]
        if self._num_leaves > 1:
            self._buffer = np.empty(self._num_leaves * max(map(prod, shapes)), dtype)

    def leaves(self, totals: Array) -> list[Array]:
        """Return where the gradients of each parameter group are to be written.

        Parameters
        ----------
        totals : ndarray (len(nodes), num_parameters)
            Where `add` will leave the subtotals.

        Returns
        -------
        list of ndarray, each (block size, *shape)
            They may share memory: write one group, call `add`, then write the next.
        """
        if self._num_leaves == 1:
            return [
                totals[:, where].reshape(1, *shape)
                for where, shape in zip(self.slices, self._shapes, strict=True)
            ]
        return [
            self._buffer[: self._num_leaves * prod(shape)].reshape(self._num_leaves, *shape)
            for shape in self._shapes
        ]

    def add(self, group: int, leaves: Array, totals: Array) -> None:
        """Add up the leaves of one parameter group, which are overwritten.

        Parameters
        ----------
        group : int
            Index into the shapes.
        leaves : ndarray (block size, *shape)
            As given out by `leaves`.
        totals : ndarray (len(nodes), num_parameters)
            The group's part of every subtotal is written here.
        """
        if self._num_leaves == 1:
            return
        rows = leaves.reshape(self._num_leaves, -1)
        for node, pairs, total in zip(self.nodes, self._additions, totals, strict=True):
            own = rows[node.start - self._first_leaf : node.stop - self._first_leaf]
            add_rows(own, pairs, total[self.slices[group]])
