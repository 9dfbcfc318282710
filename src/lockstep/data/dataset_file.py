"""The dataset file: labelled samples in HDF5, checked when opened.

Layout
------
Three groups, `train`, `validation` and `test`, each with two datasets:

- `x`, (num_samples, *feature_shape), the smallest type that loses nothing, chunked along the
  first axis only;
- `y`, (num_samples,), int32, class indices.

The root's attributes are the fields of `DatasetInfo`, with `format` and `format_version`. Numbers
are little-endian, no filter is applied, and everything can be read by HDF5 1.8 or newer.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from lockstep.errors import UserError

FORMAT = "lockstep-dataset"
FORMAT_VERSION = 1
SPLITS = ("train", "validation", "test")
IMAGE_FORMS = ("digit", "image", "none")

LABEL_DTYPE = np.dtype(np.int32)
# Many network file systems know no locks; and files are written under a name that no one else
# knows, and not changed afterwards.
UNLOCKED = {"locking": False} if h5py.version.hdf5_version_tuple >= (1, 12, 1) else {}
BLOCK_BYTES = 2**23


@dataclass(frozen=True, eq=False)
class DatasetInfo:
    """Everything about a dataset file but its samples.

    Parameters
    ----------
    name : str
        The data set's name.
    class_names : tuple of str
        The name of each class index.
    feature_shape : tuple of int
        The shape of one sample.
    dtype : numpy.dtype
        The type that samples are stored in.
    scale, offset : float or ndarray of float64, shape `feature_shape`
        The model's input is `stored * scale + offset`.
    image_form : str
        "digit" (white ink on black, as MNIST), "image", or "none" for tables.
    white : int
        What white is in stored images: 255, but 16 for the embedded digits. 1 for tables.
    source : str
        What the data were converted from.
    source_files, source_sha256 : tuple of str
        The files that were read, and the SHA-256 of each.
    shuffle_seed : int
        The seed that ordered the training rows.
    content_sha256 : str
        The digest of all samples and labels, defined at `ContentDigest`.
    num_samples : dict of str to int
        The number of rows by split.
    """

    name: str
    class_names: tuple[str, ...]
    feature_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: float | NDArray[np.float64]
    offset: float | NDArray[np.float64]
    image_form: str
    white: int
    source: str
    source_files: tuple[str, ...]
    source_sha256: tuple[str, ...]
    shuffle_seed: int
    content_sha256: str
    num_samples: dict[str, int]

    @property
    def num_features(self) -> int:
        """The number of values in one sample."""
        return prod(self.feature_shape)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)


class ContentDigest:
    """The SHA-256 of all samples and labels of a dataset file.

    For each split in the order train, validation, test, and in it for `x`, then `y`, two things
    are hashed: the line `<split>/<x or y> <dtype> <n>x<d1>x<d2>...` and a line feed, in ASCII
    (such as `train/x uint8 50000x28x28`), then the array's bytes, little-endian in C order.
    So the digest depends neither on chunking nor on the file's attributes.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def begin(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        """Start the array called `<split>/<x or y>`."""
        self._hash.update(f"{name} {dtype.name} {'x'.join(map(str, shape))}\n".encode("ascii"))

    def update(self, block: NDArray[Any]) -> None:
        """Add the array's next rows."""
        self._hash.update(np.ascontiguousarray(block, dtype=little_endian(block.dtype)).data)

    def hexdigest(self) -> str:
        """Return the digest of what was added so far."""
        return self._hash.hexdigest()


class DatasetFile:
    """A dataset file open for reading; a context manager.

    Opened by `DatasetFile.open`.
    """

    def __init__(self, path: Path, file: h5py.File, info: DatasetInfo) -> None:
        self.path = path
        self.info = info
        self._file = file

    @classmethod
    def open(cls, path: Path) -> "DatasetFile":
        """Open a dataset file read-only and check all but the samples.

        Raises
        ------
        UserError
            When the file is missing, isn't a dataset file, was written by a newer version, or is
            damaged.
        """
        file = _open_hdf5(path)
        try:
            return cls(path, file, _read_info(path, file))
        except BaseException:
            file.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def read(
        self,
        split: str,
        start: int,
        stop: int,
        out: tuple[NDArray[Any], NDArray[np.int32]] | None = None,
    ) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """Read the rows `start` to `stop` of a split.

        Parameters
        ----------
        split : str
            "train", "validation" or "test".
        start, stop : int
            0 <= start <= stop <= num_samples[split].
        out : tuple of ndarray, optional
            What to read to: contiguous arrays of the shapes and types of `x` and `y`.

        Returns
        -------
        x : ndarray, (stop - start, num_features)
            In the stored type, unscaled.
        y : ndarray of int32, (stop - start,)
            Class indices.

        Raises
        ------
        IndexError
            When the split has no such rows.
        UserError
            When the file can't be read.
        """
        if not 0 <= start <= stop <= self.info.num_samples[split]:
            raise IndexError(f"{split} has no rows {start} to {stop}")
        num_rows = stop - start
        x, y = out or (
            np.empty((num_rows, self.info.num_features), self.info.dtype),
            np.empty(num_rows, LABEL_DTYPE),
        )
        self._read_rows(f"{split}/x", start, stop, x.reshape(num_rows, *self.info.feature_shape))
        self._read_rows(f"{split}/y", start, stop, y)
        return x, y

    def class_counts(
        self, split: str, start: int = 0, stop: int | None = None
    ) -> NDArray[np.int64]:
        """Count the rows of each class, in a split or in its rows `start` to `stop`.

        Returns
        -------
        ndarray of int64, (num_classes,)

        Raises
        ------
        UserError
            When a label is no class index.
        """
        num_classes = self.info.num_classes
        counts = np.zeros(num_classes, np.int64)
        for y in self._blocks(f"{split}/y", start, stop):
            if not 0 <= y.min() <= y.max() < num_classes:
                raise _damaged(self.path, f"{split}/y has labels that are no class index")
            counts += np.bincount(y, minlength=num_classes)
        return counts

    def verify(self) -> None:
        """Compare the samples and labels with the digest that was stored with them.

        Raises
        ------
        UserError
            When they differ.
        """
        digest = ContentDigest()
        for name in (f"{split}/{part}" for split in SPLITS for part in ("x", "y")):
            dataset = self._file[name]
            digest.begin(name, dataset.dtype, dataset.shape)
            for block in self._blocks(name):
                digest.update(block)
        if digest.hexdigest() != self.info.content_sha256:
            raise _damaged(
                self.path,
                f"its content has SHA-256 {digest.hexdigest()}, "
                f"but {self.info.content_sha256} was recorded when it was written",
            )

    def _blocks(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[NDArray[Any]]:
        """Read rows of one of the arrays, some megabytes at a time."""
        dataset = self._file[name]
        num_rows = block_rows(dataset.dtype, dataset.shape[1:])
        stop = len(dataset) if stop is None else stop
        for first in range(start, stop, num_rows):
            end = min(first + num_rows, stop)
            block = np.empty((end - first, *dataset.shape[1:]), dataset.dtype)
            self._read_rows(name, first, end, block)
            yield block

    def _read_rows(self, name: str, start: int, stop: int, out: NDArray[Any]) -> None:
        if start == stop:
            return
        try:
            self._file[name].read_direct(out, np.s_[start:stop])
        except (OSError, RuntimeError) as error:
            raise _damaged(self.path, f"can't read {name}: {error}") from error


def little_endian(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return a type as it is stored: little-endian."""
    little: np.dtype[Any] = dtype.newbyteorder("<")
    return little


def block_rows(dtype: np.dtype[Any], row_shape: tuple[int, ...]) -> int:
    """Return how many rows make a block of some megabytes."""
    return max(1, BLOCK_BYTES // (dtype.itemsize * prod(row_shape)))


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} is damaged: {what}. Convert it again with `lockstep convert`.")


def _open_hdf5(path: Path) -> h5py.File:
    if not path.is_file():
        what = "is no file" if path.exists() else "doesn't exist"
        raise UserError(
            f"The dataset file {path} {what}. Name another with --data, or make one with "
            "`lockstep convert SOURCE OUT.h5`."
        )
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise UserError(f"Can't read {path}: {error.strerror}.") from error
    if not h5py.is_hdf5(path):
        raise UserError(
            f"{path} is no HDF5 file. Make a dataset file from it with `lockstep convert`."
        )
    try:
        return h5py.File(path, "r", **UNLOCKED)
    except OSError as error:
        raise _damaged(path, f"HDF5 can't open it ({error})") from error


def _read_info(path: Path, file: h5py.File) -> DatasetInfo:
    _check_format(path, file)
    attributes = _Attributes(path, file)
    feature_shape = attributes.shape("feature_shape")
    datasets = {
        split: (_dataset(path, file, split, "x"), _dataset(path, file, split, "y"))
        for split in SPLITS
    }
    for split, (x, y) in datasets.items():
        _check_split(path, split, x, y, feature_shape)
    dtypes = {x.dtype for x, _ in datasets.values()}
    if len(dtypes) != 1:
        raise _damaged(path, "its splits have different types")
    info = DatasetInfo(
        name=attributes.text("name"),
        class_names=attributes.texts("class_names"),
        feature_shape=feature_shape,
        dtype=dtypes.pop(),
        scale=attributes.scaling("scale", feature_shape),
        offset=attributes.scaling("offset", feature_shape),
        image_form=attributes.text("image_form"),
        white=attributes.integer("white"),
        source=attributes.text("source"),
        source_files=attributes.texts("source_files"),
        source_sha256=attributes.texts("source_sha256"),
        shuffle_seed=attributes.integer("shuffle_seed"),
        content_sha256=attributes.text("content_sha256"),
        num_samples={split: len(y) for split, (_, y) in datasets.items()},
    )
    _check_info(path, info)
    return info


def _check_format(path: Path, file: h5py.File) -> None:
    if file.attrs.get("format") != FORMAT:
        raise UserError(
            f"{path} is an HDF5 file, but not one that `lockstep convert` made: its attribute "
            f"`format` isn't {FORMAT!r}."
        )
    version = _Attributes(path, file).integer("format_version")
    if version > FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {version}, and this Lockstep reads up to version "
            f"{FORMAT_VERSION}: install a newer Lockstep, or convert the data again."
        )
    if version < 1:
        raise _damaged(path, f"its attribute format_version is {version}")


def _dataset(path: Path, file: h5py.File, split: str, part: str) -> h5py.Dataset:
    name = f"{split}/{part}"
    parent: h5py.Group | None = file
    for step in (split, part):
        if not isinstance(parent, h5py.Group) or step not in parent:
            raise _damaged(path, f"it has no {name}")
        # What a link points to isn't covered by this file's digest, nor copied with it.
        if not isinstance(parent.get(step, getlink=True), h5py.HardLink):
            raise _damaged(path, f"{name} is a link, and the samples must be in the file itself")
        parent = parent[step]
    if not isinstance(parent, h5py.Dataset):
        raise _damaged(path, f"{name} is no dataset")
    if parent.is_virtual or parent.external:
        raise _damaged(path, f"{name} lies in other files, and must be in the file itself")
    return parent


def _check_split(
    path: Path, split: str, x: h5py.Dataset, y: h5py.Dataset, feature_shape: tuple[int, ...]
) -> None:
    if x.dtype.kind not in "uif":
        raise _damaged(path, f"{split}/x has type {x.dtype}, not a number type")
    if y.dtype != LABEL_DTYPE or len(y.shape) != 1:
        raise _damaged(path, f"{split}/y is {y.dtype} {y.shape}, not int32 (num_samples,)")
    if x.shape != (*y.shape, *feature_shape):
        raise _damaged(
            path, f"{split}/x has shape {x.shape} instead of {(*y.shape, *feature_shape)}"
        )


def _check_info(path: Path, info: DatasetInfo) -> None:
    if info.image_form not in IMAGE_FORMS:
        raise _damaged(path, f"its attribute image_form is {info.image_form!r}")
    if len(info.source_files) != len(info.source_sha256):
        raise _damaged(path, "its attributes source_files and source_sha256 differ in length")
    if not info.class_names:
        raise _damaged(path, "it names no classes")
    if info.num_samples["train"] == 0:
        raise _damaged(path, "it has no training rows")


class _Attributes:
    """Reads the root's attributes, and says which one is missing or wrong."""

    def __init__(self, path: Path, file: h5py.File) -> None:
        self._path = path
        self._file = file

    def text(self, name: str) -> str:
        value = self._get(name)
        if not isinstance(value, str):
            raise self._wrong(name, "a text")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        values = self._array(name).tolist()
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise self._wrong(name, "a list of texts")
        return tuple(values)

    def integer(self, name: str) -> int:
        value = self._array(name)
        if value.shape != () or value.dtype.kind not in "ui":
            raise self._wrong(name, "an integer")
        return int(value)

    def shape(self, name: str) -> tuple[int, ...]:
        value = self._array(name)
        if value.ndim != 1 or value.dtype.kind not in "ui" or not value.size or value.min() < 1:
            raise self._wrong(name, "a list of positive integers")
        return tuple(value.tolist())

    def scaling(self, name: str, feature_shape: tuple[int, ...]) -> float | NDArray[np.float64]:
        value = self._array(name)
        if value.dtype.kind != "f" or value.shape not in {(), feature_shape}:
            raise self._wrong(name, "a number, or one for each feature")
        if not np.isfinite(value).all():
            raise self._wrong(name, "finite")
        return value.astype(np.float64) if value.shape else float(value)

    def _array(self, name: str) -> NDArray[Any]:
        value: NDArray[Any] = np.asarray(self._get(name))
        return value

    def _get(self, name: str) -> object:
        try:
            value: object = self._file.attrs[name]
        except (KeyError, OSError) as error:
            raise _damaged(self._path, f"it has no attribute {name}") from error
        return value

    def _wrong(self, name: str, wanted: str) -> UserError:
        return _damaged(self._path, f"its attribute {name} should be {wanted}")
