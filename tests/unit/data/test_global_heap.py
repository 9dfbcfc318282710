import struct

import pytest

from lockstep.data.global_heap import check_global_heaps
from lockstep.errors import UserError


def heap(*objects, num_bytes=4096):
    """Return a heap whose objects are given by number and size."""
    content = b"GCOL\x01\0\0\0" + struct.pack("<Q", num_bytes)
    for number, size in objects:
        content += struct.pack("<HHIQ", number, 1, 0, size)
        # The size of free space counts what comes before it.
        content += bytes(min(4096, (size + 7) // 8 * 8 if number else max(0, size - 16)))
    return content.ljust(num_bytes, b"\xff")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "heaps.h5"


@pytest.mark.parametrize(
    "content",
    [
        b"no heap",
        heap((1, 5), (2, 16), (0, 4032)),
        heap((1, 5), (2, 16), (0, 4032)) * 3,
        heap((1, 2**63)),
        b"GCOL\x01\0\0\0",
        heap((1, 5))[:30],
        heap(num_bytes=16),
    ],
)
def test_sound_heaps_and_those_that_are_cut_off(path, content):
    path.write_bytes(content)
    check_global_heaps(path)


@pytest.mark.parametrize(
    "content",
    [
        heap((1, 5), (0, 0)),
        b"x" * 1001 + heap((0, 0)),
        heap((1, 5), (0, 4000)) + heap((1, 5), (2, 8), (0, 24), (0, 0)),
        # Behind and before what may be samples.
        heap((0, 0)) + bytes(2**26),
        bytes(2**26) + heap((0, 0)),
    ],
)
def test_a_heap_that_has_no_end(path, content):
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"heaps\.h5 is damaged: HDF5 would never come to the end"):
        check_global_heaps(path)
