"""Parts of flat arrays."""

from collections.abc import Iterable, Iterator


def blocks(where: slice, size: int) -> Iterator[slice]:
    """Yield a slice block by block, each of `size` elements but the last."""
    for start in range(where.start, where.stop, size):
        yield slice(start, min(start + size, where.stop))


def overlaps(where: slice, parts: Iterable[slice]) -> Iterator[slice]:
    """Yield what of each of the parts lies in a slice, where there is anything."""
    for part in parts:
        start, stop = max(part.start, where.start), min(part.stop, where.stop)
        if start < stop:
            yield slice(start, stop)
