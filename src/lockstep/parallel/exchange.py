"""Sums over ranks that share no memory, by messages: three ways, all in the tree's order.

Each peer holds some rows, which are subtotals of the canonical tree. Adding up the rows of all
peers gives the total. The ways differ in who adds what, and so in the number and size of the
messages, but never in the order of the additions.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Protocol

import numpy as np

from lockstep.arrays import Array
from lockstep.parallel.tree import Node, add_rows, additions


class Request(Protocol):
    """A message under way."""

    def Test(self) -> bool:  # noqa: N802 - mpi4py's name
        """Let it make progress; return whether it is done."""

    def Wait(self) -> object:  # noqa: N802 - mpi4py's name
        """Wait until it is done."""


class Peers(Protocol):
    """Ranks that send each other messages."""

    rank: int
    world_size: int

    def start_all_to_all(
        self, packed: Array, counts: Array, received: Array, received_counts: Array
    ) -> Request:
        """Begin to send every peer its part of `packed`, and to receive one from each."""

    def start_all_gather(self, total: Array, counts: Array) -> Request:
        """Begin to fill in the other peers' parts of `total`; the own one is there."""

    def start_send(self, peer: int, values: Array) -> Request:
        """Begin to send contiguous values."""

    def start_receive(self, peer: int, values: Array) -> Request:
        """Begin to receive contiguous values."""

    def wait(self, requests: Sequence[Request]) -> None:
        """Wait until all are done."""


class Exchange(Protocol):
    """A way to add up the rows of all peers.

    Attributes
    ----------
    own : list of slice
        The parts of the total that this peer adds up.
    """

    own: list[slice]

    def progress(self, complete: slice) -> None:
        """Take note that a part of the rows is complete; send it, where that pays."""

    def reduce_scatter(self) -> None:
        """Write the sum to the own parts of the total."""

    def all_gather(self) -> None:
        """Fill in the other peers' parts of the total."""


class AllToAll:
    """Each peer gets its slice of everybody's rows and adds them; then the sums are gathered.

    Twice the length of the vector in bytes, for any number of peers and rows. The messages can
    be started bucket by bucket while the backward pass is still at work on the layers below.

    Parameters
    ----------
    peers : Peers
        The ranks to exchange with; this one is among them.
    nodes_by_peer : sequence of list of Node
        Which rows of the tree each of them holds.
    rows : sequence of ndarray, each (length,)
        This rank's. Read only.
    total : ndarray (length,)
        Where the sum is written.
    buckets : sequence of slice
        Parts that are sent on their own; together, all of the vector.
    """

    def __init__(
        self,
        peers: Peers,
        nodes_by_peer: Sequence[list[Node]],
        rows: Sequence[Array],
        total: Array,
        buckets: Sequence[slice],
    ) -> None:
        self._buckets = [_Bucket(peers, nodes_by_peer, rows, total, where) for where in buckets]
        self._peers = peers
        self._length = total.size
        self.own = [bucket.own for bucket in self._buckets]

    def progress(self, complete: slice) -> None:
        """Start the buckets that are complete, and let those under way make progress."""
        for bucket in self._buckets:
            for request in bucket.requests:
                # MPI libraries only work on messages while they are called.
                request.Test()
            bucket.complete(complete)

    def reduce_scatter(self) -> None:
        """Add up the own slice of every bucket."""
        for bucket in self._buckets:
            bucket.complete(slice(0, self._length))
        for bucket in self._buckets:
            self._peers.wait(bucket.requests)
            bucket.add_up()

    def all_gather(self) -> None:
        """Gather the slices of all buckets."""
        self._peers.wait([bucket.start_gather() for bucket in self._buckets])


class _Bucket:
    """One part of the vector on its way through an `AllToAll`."""

    def __init__(
        self,
        peers: Peers,
        nodes_by_peer: Sequence[list[Node]],
        rows: Sequence[Array],
        total: Array,
        where: slice,
    ) -> None:
        self.requests: list[Request] = []
        self._where = where
        self._num_missing = where.stop - where.start
        self._peers = peers
        self._rows = [row[where] for row in rows]
        self._total = total[where]
        self._slices = slices(where.stop - where.start, peers.world_size)
        lengths = np.array([part.stop - part.start for part in self._slices])
        own = self._slices[peers.rank]
        self.own = slice(where.start + own.start, where.start + own.stop)
        num_rows = np.array([len(nodes) for nodes in nodes_by_peer])
        self._packed = np.empty(len(rows) * self._total.size, total.dtype)
        self._received = np.empty((num_rows.sum(), lengths[peers.rank]), total.dtype)
        self._send_counts = lengths * len(rows)
        self._receive_counts = num_rows * lengths[peers.rank]
        self._gather_counts = lengths
        self._sum = self._total[own]
        self._additions = _all_additions(nodes_by_peer)

    def complete(self, part: slice) -> None:
        """Send the bucket as soon as all of it is complete."""
        if self.requests:
            return
        start, stop = max(part.start, self._where.start), min(part.stop, self._where.stop)
        self._num_missing -= max(0, stop - start)
        if self._num_missing <= 0:
            self._start()

    def _start(self) -> None:
        np.concatenate([row[part] for part in self._slices for row in self._rows], out=self._packed)
        self.requests = [
            self._peers.start_all_to_all(
                self._packed, self._send_counts, self._received, self._receive_counts
            )
        ]

    def add_up(self) -> None:
        add_rows(self._received, self._additions, self._sum)
        self.requests = []
        self._num_missing = self._total.size

    def start_gather(self) -> Request:
        return self._peers.start_all_gather(self._total, self._gather_counts)


class HalvingDoubling:
    """Recursive halving, then recursive doubling, the nearest peer first.

    As many bytes as `AllToAll` in fewer messages. It adds in the tree's order only where every
    peer holds one row, and they pair up as the tree does: see `fits`.

    Parameters
    ----------
    peers, rows, total
        As for `AllToAll`. The row is overwritten.

    References
    ----------
    R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of Collective Communication Operations in
    MPICH", IJHPCA 19 (2005), section 4.5.
    """

    def __init__(self, peers: Peers, rows: Sequence[Array], total: Array) -> None:
        self._peers = peers
        (self._row,) = rows
        self._total = total
        self._received = np.empty(-(-total.size // 2), total.dtype)
        kept = slice(0, total.size)
        # (partner, part that is given away, part that is kept) by round.
        self._rounds: list[tuple[int, slice, slice]] = []
        distance = 1
        while distance < peers.world_size:
            middle = (kept.start + kept.stop) // 2
            halves = slice(kept.start, middle), slice(middle, kept.stop)
            is_upper = bool(peers.rank & distance)
            kept = halves[is_upper]
            self._rounds.append((peers.rank ^ distance, halves[not is_upper], kept))
            distance *= 2
        self.own = [kept]

    @staticmethod
    def fits(nodes_by_peer: Sequence[list[Node]]) -> bool:
        """Whether halving adds these rows in the tree's order."""
        num_peers = len(nodes_by_peer)
        if num_peers & (num_peers - 1) or any(len(nodes) != 1 for nodes in nodes_by_peer):
            return False
        pairs = set()
        distance = 1
        while distance < num_peers:
            pairs |= {(peer, peer + distance) for peer in range(0, num_peers, 2 * distance)}
            distance *= 2
        return set(_all_additions(nodes_by_peer)) == pairs

    def progress(self, complete: slice) -> None:
        """Do nothing: the first message needs the whole vector."""

    def reduce_scatter(self) -> None:
        """Halve the part that is kept in every round."""
        for partner, given, kept in self._rounds:
            received = self._received[: kept.stop - kept.start]
            self._swap(partner, self._row[given], received)
            # Which of the two is on the left doesn't matter: a + b and b + a are the same bits.
            np.add(self._row[kept], received, out=self._row[kept])
        (own,) = self.own
        self._total[own] = self._row[own]

    def all_gather(self) -> None:
        """Double the part that is complete in every round."""
        for partner, given, kept in reversed(self._rounds):
            self._swap(partner, self._total[kept], self._total[given])

    def _swap(self, partner: int, given: Array, received: Array) -> None:
        self._peers.wait(
            [
                self._peers.start_receive(partner, received),
                self._peers.start_send(partner, given),
            ]
        )


class Direct:
    """Every peer sends all its rows to every other, and all of them add up everything.

    One message's delay instead of two or more, and the most bytes: for small vectors.

    Parameters
    ----------
    peers, nodes_by_peer, rows, total
        As for `AllToAll`.
    """

    def __init__(
        self, peers: Peers, nodes_by_peer: Sequence[list[Node]], rows: Sequence[Array], total: Array
    ) -> None:
        self._peers = peers
        self._rows = rows
        self._total = total
        self._additions = _all_additions(nodes_by_peer)
        ends = list(accumulate(map(len, nodes_by_peer)))
        self._table = np.empty((ends[-1], total.size), total.dtype)
        self._parts = [self._table[start:end] for start, end in pairwise([0, *ends])]
        self.own = [slice(0, total.size)]

    def progress(self, complete: slice) -> None:
        """Do nothing: the vector is small."""

    def reduce_scatter(self) -> None:
        """Exchange all rows and add them."""
        own = self._peers.rank
        others = [peer for peer in range(self._peers.world_size) if peer != own]
        np.stack(self._rows, out=self._parts[own])
        receives = [self._peers.start_receive(peer, self._parts[peer]) for peer in others]
        sends = [self._peers.start_send(peer, self._parts[own]) for peer in others]
        # The own rows are added to in place, so they must have left before.
        self._peers.wait(receives + sends)
        add_rows(self._table, self._additions, self._total)

    def all_gather(self) -> None:
        """Do nothing: every peer has everything."""


def slices(length: int, parts: int) -> list[slice]:
    """Divide a vector into contiguous slices, as even as can be."""
    return [slice(length * part // parts, length * (part + 1) // parts) for part in range(parts)]


def _all_additions(nodes_by_peer: Sequence[list[Node]]) -> list[tuple[int, int]]:
    nodes = [node for nodes in nodes_by_peer for node in nodes]
    return additions(Node(0, max(node.stop for node in nodes)), nodes)
