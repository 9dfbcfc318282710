"""A look at what the HDF5 library can't be trusted with: damaged heaps of texts."""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

from lockstep.errors import UserError

# The signature, version 1, and three zero bytes (HDF5 File Format Specification, III.E).
_SIGNATURE = b"GCOL\x01\0\0\0"
# Signature and size of the whole; then objects, each with its number, uses and size before it.
_HEADER = struct.Struct("<8sQ")
_OBJECT = struct.Struct("<HHIQ")
_FREE_SPACE = 0
# Attributes are written first or last, so their texts are at one of a file's ends.
_SEARCHED_BYTES = 2**24
# Of some seconds; a million class names take a million steps.
_MAX_STEPS = 10**7


def check_global_heaps(path: Path) -> None:
    """Refuse a file on whose texts the HDF5 library would work for ever.

    It goes through a heap in steps of the sizes that the heap itself tells, and takes a step of
    size 0 (of free space) again and again; seen in HDF5 2.0.0.

    Parameters
    ----------
    path : Path
        An HDF5 file. Of a large one, the first and last 16 MiB are looked at.

    Raises
    ------
    UserError
        When it has such a heap.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for number, step in enumerate(_steps(content)):
            if step == 0 or number == _MAX_STEPS:
                raise UserError(
                    f"{path} is damaged: HDF5 would never come to the end of its texts. Convert it "
                    "again with `lockstep convert`."
                )


def _heaps(content: mmap.mmap) -> Iterator[int]:
    """Yield where heaps begin."""
    last_part = max(_SEARCHED_BYTES, len(content) - _SEARCHED_BYTES)
    for first, end in ((0, _SEARCHED_BYTES), (last_part, len(content))):
        start = content.find(_SIGNATURE, first, end)
        while start >= 0:
            yield start
            start = content.find(_SIGNATURE, start + 1, end)


def _steps(content: mmap.mmap) -> Iterator[int]:
    """Yield the sizes of all steps from object to object, in all heaps."""
    for start in _heaps(content):
        place = start + _HEADER.size
        if place > len(content):
            return
        _, num_bytes = _HEADER.unpack_from(content, start)
        end = min(start + num_bytes, len(content))
        while place + _OBJECT.size <= end:
            number, _, _, size = _OBJECT.unpack_from(content, place)
            # The size of free space counts its own header, and others are multiples of 8.
            step = size if number == _FREE_SPACE else _OBJECT.size + -(-size // 8) * 8
            yield step
            place += step
