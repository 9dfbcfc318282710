"""Writing a dataset file, which appears under its name only when it is whole."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lockstep.data.dataset_file import (
    BLOCK_BYTES,
    FORMAT,
    FORMAT_VERSION,
    LABEL_DTYPE,
    ContentDigest,
    little_endian,
    open_unlocked,
)
from lockstep.errors import UserError
from lockstep.files import atomic_path

_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Header:
    """What is known of a dataset before its samples are written.

    The parameters are those of `DatasetInfo`, except `num_samples`, the number of rows of each
    split, and `chunk_rows`, the rows of an HDF5 chunk of `x`, chosen by size if None.
    """

    name: str
    class_names: tuple[str, ...]
    feature_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    image_form: str
    white: int
    source: str
    source_files: tuple[str, ...]
    source_sha256: tuple[str, ...]
    shuffle_seed: int
    chunk_rows: int | None = None

    @property
    def block_rows(self) -> int:
        """The number of rows that make a block of some megabytes."""
        return max(1, BLOCK_BYTES // self._row_bytes)

    @property
    def _row_bytes(self) -> int:
        return prod(self.feature_shape) * self.dtype.itemsize

    def chunks(self, num_rows: int) -> tuple[int, ...] | None:
        """Return the chunk shape of an `x` with so many rows; an empty one has no chunks."""
        if num_rows == 0:
            return None
        wanted = self.chunk_rows or max(1, _CHUNK_BYTES // self._row_bytes)
        return (min(wanted, num_rows), *self.feature_shape)


class DatasetWriter:
    """Writes the splits, in the order of `SPLITS`, and then the attributes."""

    def __init__(self, file: h5py.File, header: Header) -> None:
        self._file = file
        self._header = header
        self._digest = ContentDigest()

    def write_split(
        self, split: str, blocks: Iterable[NDArray[Any]], labels: NDArray[np.int32]
    ) -> None:
        """Write one split.

        Parameters
        ----------
        split : str
            "train", "validation" or "test", each once and in this order.
        blocks : iterable of ndarray, (rows, *feature_shape)
            All samples, some rows at a time, in the header's type.
        labels : ndarray of int32, (num_samples,)
            Their class indices.
        """
        header = self._header
        shape = (len(labels), *header.feature_shape)
        dtype = little_endian(header.dtype)
        x = self._file.create_dataset(f"{split}/x", shape, dtype, chunks=header.chunks(len(labels)))
        self._digest.begin(f"{split}/x", dtype, shape)
        start = 0
        for block in blocks:
            x[start : start + len(block)] = block
            self._digest.update(block)
            start += len(block)
        if start != len(labels):
            raise ValueError(f"{split} has {len(labels)} labels, but {start} samples")
        self._digest.begin(f"{split}/y", LABEL_DTYPE, labels.shape)
        self._digest.update(labels)
        self._file.create_dataset(f"{split}/y", data=labels, dtype=little_endian(LABEL_DTYPE))

    def finish(
        self, scale: float | NDArray[np.float64], offset: float | NDArray[np.float64]
    ) -> None:
        """Write the attributes, after all splits."""
        header = self._header
        text = h5py.string_dtype()
        attributes = self._file.attrs
        attributes["format"] = FORMAT
        attributes["format_version"] = FORMAT_VERSION
        attributes["name"] = header.name
        attributes.create("class_names", list(header.class_names), dtype=text)
        attributes["feature_shape"] = np.array(header.feature_shape, dtype="<i8")
        attributes["scale"] = np.asarray(scale, dtype="<f8")
        attributes["offset"] = np.asarray(offset, dtype="<f8")
        attributes["image_form"] = header.image_form
        attributes["white"] = np.int64(header.white)
        attributes["source"] = header.source
        attributes.create("source_files", list(header.source_files), dtype=text)
        attributes.create("source_sha256", list(header.source_sha256), dtype=text)
        attributes["shuffle_seed"] = np.uint64(header.shuffle_seed)
        attributes["content_sha256"] = self._digest.hexdigest()


@contextmanager
def create_dataset_file(path: Path, header: Header) -> Iterator[DatasetWriter]:
    """Write a dataset file that appears under its name only when it is whole.

    Parameters
    ----------
    path : Path
        The destination, replaced if it exists. Its folder must exist.
    header : Header
        What is known of it beforehand.

    Yields
    ------
    DatasetWriter
        To be given the three splits, then finished.

    Raises
    ------
    UserError
        When the file can't be written.
    """
    try:
        # The oldest format that has room for large attributes, such as one mean per pixel.
        with (
            atomic_path(path) as temporary,
            open_unlocked(temporary, "w", libver=("v108", "v108")) as file,
        ):
            yield DatasetWriter(file, header)
    except OSError as error:
        raise UserError(
            f"Can't write {path}: {error}. Is there room on the disk, and may you write there?"
        ) from error
