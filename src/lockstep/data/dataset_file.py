"""The dataset file: labelled samples in HDF5, checked when opened.

Layout
------
Three groups, `train`, `validation` and `test`, each with two datasets:

- `x`, (num_samples, *feature_shape), the smallest type that loses nothing, chunked along the
  first axis only;
- `y`, (num_samples,), int32, class indices.

The root's attributes are the fields of `DatasetInfo`, with `format` and `format_version`. Numbers
are little-endian, no filter is applied, and everything can be read by HDF5 1.8 or newer.

What somebody else has made of such a file is read too if it has other chunks, is compressed by
HDF5's own deflate, or has big-endian samples. A file can come from anywhere, so nothing in it is
followed to other files, and nothing is taken into memory that the file is too small for.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from lockstep.data.global_heap import check_global_heaps
from lockstep.errors import UserError

FORMAT = "lockstep-dataset"
FORMAT_VERSION = 1
SPLITS = ("train", "validation", "test")
IMAGE_FORMS = ("digit", "image", "none")

LABEL_DTYPE = np.dtype(np.int32)
# No extended precision, which differs from machine to machine.
_NUMBERS = {"u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"}
# All others need a plugin, which is code, or can blow a few bytes up without limit.
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
# The most that deflate can make of a byte (https://zlib.net/zlib_tech.html).
_DEFLATE_FACTOR = 1032
# What h5py raises on damaged files.
_HDF5_ERRORS = (
    OSError, RuntimeError, KeyError, TypeError, ValueError, OverflowError, MemoryError
)  # fmt: skip
# What opens a file without a lock, where the HDF5 library knows it.
UNLOCKED = {"locking": False} if h5py.version.hdf5_version_tuple >= (1, 12, 1) else {}
# It is obeyed before all that a program asks for.
LOCKING_VARIABLE = "HDF5_USE_FILE_LOCKING"
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
        self._num_bytes = self._current_bytes()
        self._class_counts = {split: self._count_classes(split) for split in SPLITS}

    @classmethod
    def open(cls, path: Path) -> "DatasetFile":
        """Open a dataset file read-only and check all but the samples: labels are read.

        Raises
        ------
        UserError
            When the file is missing, isn't a dataset file, was written by a newer version, is
            damaged, has labels that are no class index, or would have other files read or run.
        """
        file = _open_hdf5(path)
        try:
            with _blaming(path):
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
            When the file can't be read, or has become shorter since it was opened.
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

    def class_counts(self, split: str) -> NDArray[np.int64]:
        """Return how many rows of a split each class has, (num_classes,)."""
        return self._class_counts[split]

    def check_training_classes(self) -> None:
        """See that there is something to learn of every class.

        Raises
        ------
        UserError
            When there is one class only, or one without a training row.
        """
        counts = self.class_counts("train")
        if len(counts) < 2:
            raise UserError(f"{self.path} has one class only: there is nothing to tell apart.")
        if not counts.all():
            missing = self.info.class_names[int(counts.argmin())]
            raise UserError(
                f"{self.path}: class {missing!r} has no training row, so it can't be learned. "
                "Convert the data again with rows of it, or without the class."
            )

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

    def _count_classes(self, split: str) -> NDArray[np.int64]:
        num_classes = self.info.num_classes
        counts = np.zeros(num_classes, np.int64)
        first = 0
        for y in self._blocks(f"{split}/y"):
            wrong = (y < 0) | (y >= num_classes)
            if wrong.any():
                row = int(wrong.argmax())
                raise _damaged(
                    self.path,
                    f"{split}/y has the label {y[row]} in row {first + row} (counted from 0), and "
                    f"the {num_classes} classes go from 0 to {num_classes - 1}",
                )
            counts += np.bincount(y, minlength=num_classes)
            first += len(y)
        return counts

    def _blocks(self, name: str) -> Iterator[NDArray[Any]]:
        """Read one of the arrays, some megabytes at a time."""
        dataset = self._file[name]
        num_rows = block_rows(dataset.dtype, dataset.shape[1:])
        for first in range(0, len(dataset), num_rows):
            end = min(first + num_rows, len(dataset))
            block = np.empty((end - first, *dataset.shape[1:]), dataset.dtype)
            self._read_rows(name, first, end, block)
            yield block

    def _read_rows(self, name: str, start: int, stop: int, out: NDArray[Any]) -> None:
        if start == stop:
            return
        try:
            self._file[name].read_direct(out, np.s_[start:stop])
        except _HDF5_ERRORS as error:
            raise _damaged(self.path, f"can't read {name}: {error}") from error
        # Beyond the end of a file that is cut off meanwhile, HDF5 reads zeros.
        if self._current_bytes() < self._num_bytes:
            raise _damaged(self.path, "it was cut off while it was read")

    def _current_bytes(self) -> int:
        return os.fstat(self._file.id.get_vfd_handle()).st_size


def little_endian(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return a type as it is stored: little-endian."""
    little: np.dtype[Any] = dtype.newbyteorder("<")
    return little


def block_rows(dtype: np.dtype[Any], row_shape: tuple[int, ...]) -> int:
    """Return how many rows make a block of some megabytes."""
    return max(1, BLOCK_BYTES // (dtype.itemsize * prod(row_shape)))


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} is damaged: {what}. Convert it again with `lockstep convert`.")


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Say which file it was when HDF5 can make nothing of one."""
    try:
        yield
    except _HDF5_ERRORS as error:
        raise _damaged(path, f"HDF5 can't read it ({error})") from error


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
    check_global_heaps(path)
    with _blaming(path):
        # The driver for one plain file, whatever the environment says.
        return open_unlocked(path, "r", driver="sec2")


def open_unlocked(path: Path, mode: str, **options: Any) -> h5py.File:  # noqa: ANN401 - h5py's own
    """Open an HDF5 file without a lock.

    Many network file systems know no locks; and data sets are written under a name that no one
    else knows, and not changed afterwards.

    Parameters
    ----------
    path : Path
        The file.
    mode : str
        "r" or "w".
    **options
        Of `h5py.File`.

    Raises
    ------
    UserError
        When the environment asks for a lock, and there is none to be had.
    OSError
        When HDF5 can't open the file.
    """
    if not UNLOCKED:
        # These versions of the library look at it whenever they open a file.
        os.environ.setdefault(LOCKING_VARIABLE, "FALSE")
    try:
        return h5py.File(path, mode, **UNLOCKED, **options)
    except OSError as error:
        if "unable to lock file" not in str(error):
            raise
        raise UserError(
            f"HDF5 can't lock {path}: {os.strerror(error.errno or 0)}. Lockstep needs no lock, "
            f"but {LOCKING_VARIABLE} is {os.environ.get(LOCKING_VARIABLE)} in the environment. "
            f"Unset it, or: export {LOCKING_VARIABLE}=FALSE"
        ) from error


def _read_info(path: Path, file: h5py.File) -> DatasetInfo:
    attributes = _Attributes(path, file)
    _check_format(path, attributes)
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


def _check_format(path: Path, attributes: "_Attributes") -> None:
    try:
        is_ours = attributes.text("format") == FORMAT
    except UserError:
        is_ours = False
    if not is_ours:
        raise UserError(
            f"{path} is an HDF5 file, but not one that `lockstep convert` made: its attribute "
            f"`format` isn't {FORMAT!r}."
        )
    version = attributes.integer("format_version")
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
        # Asked for by `in` or `get`, a link to another file would have that file opened.
        link = step.encode()
        if not isinstance(parent, h5py.Group) or not parent.id.links.exists(link):
            raise _damaged(path, f"it has no {name}")
        # What a link points to isn't covered by this file's digest, nor copied with it.
        if parent.id.links.get_info(link).type != h5py.h5l.TYPE_HARD:
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
    if x.dtype.str[1:] not in _NUMBERS:
        raise _damaged(path, f"{split}/x has type {x.dtype}, not a number type")
    if y.dtype != LABEL_DTYPE or len(y.shape) != 1:
        raise _damaged(path, f"{split}/y is {y.dtype} {y.shape}, not int32 (num_samples,)")
    if x.shape != (*y.shape, *feature_shape):
        raise _damaged(
            path, f"{split}/x has shape {x.shape} instead of {(*y.shape, *feature_shape)}"
        )
    for dataset in (x, y):
        _check_storage(path, dataset)


def _check_storage(path: Path, dataset: h5py.Dataset) -> None:
    """See that an array can be read without plugins, and that the file has room for it."""
    name = dataset.name.removeprefix("/")
    plan = dataset.id.get_create_plist()
    filters = {plan.get_filter(number)[0] for number in range(plan.get_nfilters())}
    if filters - _FILTERS:
        raise UserError(
            f"{path}: {name} is compressed by a filter that isn't read here (number "
            f"{min(filters - _FILTERS)}). Unpack it: h5repack -f NONE {path} OUT.h5"
        )
    file_bytes = path.stat().st_size
    most = file_bytes * (_DEFLATE_FACTOR if h5py.h5z.FILTER_DEFLATE in filters else 1)
    shapes = {"": dataset.shape, "a chunk of ": dataset.chunks or ()}
    # A chunk that is filtered is read whole, whatever is wanted of it.
    for what in ("", "a chunk of ") if filters else ("",):
        if (num_bytes := prod(shapes[what]) * dataset.dtype.itemsize) > most:
            raise _damaged(
                path,
                f"{what}{name} of shape {shapes[what]} takes {num_bytes} bytes, more than can be "
                f"in a file of {file_bytes}",
            )


def _check_info(path: Path, info: DatasetInfo) -> None:
    if info.image_form not in IMAGE_FORMS:
        raise _damaged(path, f"its attribute image_form is {info.image_form!r}")
    if len(info.source_files) != len(info.source_sha256):
        raise _damaged(path, "its attributes source_files and source_sha256 differ in length")
    if Path(info.name).name != info.name:
        # Run folders are named after it.
        raise _damaged(path, f"its attribute name is {info.name!r}, and should be a plain name")
    if not 1 <= info.white <= 255:
        raise _damaged(path, f"its attribute white is {info.white}, and should be from 1 to 255")
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
        if not is_text(value):
            raise self._wrong(name, "a text")
        return str(value)

    def texts(self, name: str) -> tuple[str, ...]:
        values = self._array(name).tolist()
        if not isinstance(values, list) or not all(map(is_text, values)):
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
        with np.errstate(over="ignore"):
            value = value.astype(np.float64)
        if not np.isfinite(value).all():
            raise self._wrong(name, "finite")
        return value if value.shape else float(value)

    def _array(self, name: str) -> NDArray[Any]:
        value: NDArray[Any] = np.asarray(self._get(name))
        return value

    def _get(self, name: str) -> object:
        attributes = self._file.attrs
        try:
            stored = attributes.get_id(name)
        except (KeyError, OSError) as error:
            raise _damaged(self._path, f"it has no attribute {name}") from error
        # References to objects, and what else isn't wanted, are not even read.
        is_number = stored.dtype.kind in "uif"
        if stored.shape is None or not (is_number or h5py.check_string_dtype(stored.dtype)):
            raise self._wrong(name, "numbers or texts")
        if prod(stored.shape) * stored.dtype.itemsize > self._path.stat().st_size:
            raise self._wrong(name, "smaller than the file")
        value: object = attributes[name]
        return value

    def _wrong(self, name: str, wanted: str) -> UserError:
        return _damaged(self._path, f"its attribute {name} should be {wanted}")


def is_text(value: object) -> bool:
    """Return whether it is a text that a data set can hold: no zeros, and nothing but Unicode.

    What isn't UTF-8, in a file or in the name of one, comes as surrogates.
    """
    return isinstance(value, str) and not any(
        letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in value
    )
