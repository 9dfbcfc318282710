"""Small made-up sources."""

import struct
from contextlib import ExitStack

import numpy as np
import pytest

from lockstep.data.dataset_file import DatasetFile
from lockstep.data.sources.base import Request


def idx_bytes(array):
    return (
        bytes([0, 0, 8, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


def write_idx_folder(folder, images, labels, test_images, test_labels):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (
        ("train-images-idx3-ubyte", images),
        ("train-labels-idx1-ubyte", labels),
        ("t10k-images-idx3-ubyte", test_images),
        ("t10k-labels-idx1-ubyte", test_labels),
    ):
        (folder / name).write_bytes(idx_bytes(array))
    return folder


@pytest.fixture
def small_mnist():
    """60 training and 12 test images of 4x4 pixels, all different, three classes."""
    rng = np.random.default_rng(7)
    return (
        rng.integers(0, 256, (60, 4, 4), dtype=np.uint8),
        np.arange(60, dtype=np.uint8) % 3,
        rng.integers(0, 256, (12, 4, 4), dtype=np.uint8),
        np.arange(12, dtype=np.uint8) % 3,
    )


@pytest.fixture
def idx_folder(tmp_path, small_mnist):
    return write_idx_folder(tmp_path / "idx", *small_mnist)


@pytest.fixture
def request_for(tmp_path):
    """Make requests whose resources are closed after the test."""
    with ExitStack() as resources:
        yield lambda path, **options: Request(path, tmp_path, resources, **options)


@pytest.fixture
def read_all():
    """Read a split whole: x in the stored shape, and y."""

    def read(path, split):
        with DatasetFile.open(path) as file:
            info = file.info
            x, y = file.read(split, 0, info.num_samples[split])
        return x.reshape(-1, *info.feature_shape), y

    return read
