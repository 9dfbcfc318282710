"""What every source gives, and what reading any of them needs."""

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from lockstep.errors import UserError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Half a million float64 values: a few megabytes.
BLOCK_VALUES = 2**19
GZIP_MAGIC = b"\x1f\x8b"
# What unpacks to less is harmless; of more, data shrink by less than this, and bombs by more.
_HARMLESS_BYTES = 2**28
_LARGEST_FACTOR = 100
# Up to here, floating-point numbers are exact.
_LARGEST_LABEL = 2**53


class Rows(Protocol):
    """Samples that can be fetched by number, in any order."""

    def fetch(self, numbers: NDArray[np.intp]) -> NDArray[Any]:
        """Return the samples with these numbers, (len(numbers), *feature_shape)."""


@dataclass(frozen=True)
class ArrayRows:
    """Samples held in memory.

    Parameters
    ----------
    x : ndarray, (num_rows, *feature_shape)
        The samples.
    """

    x: NDArray[Any]

    def fetch(self, numbers: NDArray[np.intp]) -> NDArray[Any]:
        """Return the samples with these numbers."""
        return self.x[numbers]


@dataclass(frozen=True)
class Part:
    """Some samples and their labels.

    Parameters
    ----------
    rows : Rows
        The samples.
    labels : ndarray of int32, (num_rows,)
        Their class indices.
    """

    rows: Rows
    labels: NDArray[np.int32]


@dataclass(frozen=True)
class SourceFile:
    """A file that was read.

    Parameters
    ----------
    name : str
        Its name without folders outside the source.
    sha256 : str
        The SHA-256 of its bytes.
    """

    name: str
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "SourceFile":
        """Hash a file."""
        with reading(path), path.open("rb") as file:
            return cls(path.name, hashlib.file_digest(file, "sha256").hexdigest())


@dataclass(frozen=True)
class Source:
    """Labelled samples, ready to be split and written.

    Parameters
    ----------
    name : str
        The data set's name.
    files : sequence of SourceFile
        What was read.
    class_names : tuple of str
        The name of each class index.
    feature_shape : tuple of int
        The shape of one sample.
    dtype : numpy.dtype
        The type of the samples.
    parts : mapping of str to Part
        Either "all", which is yet to be split, or "train" and "test", or "train", "validation"
        and "test".
    scale : float
        The model's input is `stored * scale`.
    image_form : str
        "digit", "image" or "none".
    """

    name: str
    files: Sequence[SourceFile]
    class_names: tuple[str, ...]
    feature_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    parts: Mapping[str, Part]
    scale: float = 1.0
    image_form: str = "none"


@dataclass(frozen=True)
class Request:
    """What a source is asked for; each source heeds the options that apply to it.

    Parameters
    ----------
    path : Path
        The file or folder.
    scratch : Path
        A folder for temporary files.
    resources : ExitStack
        Closes what the source keeps open.
    label_column : str or None
        The label column's name or position, counted from 0 or, if negative, from the end.
    header : bool or None
        Whether a table has a header line; None to detect it.
    delimiter : str or None
        What stands between cells; None to detect it.
    image_size : tuple of int or None
        Height and width that images are brought to; None for those of the first image.
    color : str or None
        "gray" or "rgb"; None for gray if all images are gray.
    mirrors : tuple of str
        Where to download from; empty for the usual places.
    """

    path: Path
    scratch: Path
    resources: ExitStack
    label_column: str | None = None
    header: bool | None = None
    delimiter: str | None = None
    image_size: tuple[int, int] | None = None
    color: str | None = None
    mirrors: tuple[str, ...] = ()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say which file it was when one can't be read.

    Raises
    ------
    UserError
        In place of what the operating system or a decompressor raises.
    """
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"Can't read {path}: {reason}.") from error


def most_unpacked(packed_bytes: int) -> int:
    """Return how many bytes may be unpacked from so many, lest a small file fill the memory."""
    return max(_HARMLESS_BYTES, _LARGEST_FACTOR * packed_bytes)


class _Limited(io.RawIOBase):
    """Reads a compressed file up to a limit."""

    def __init__(self, unzipped: gzip.GzipFile, path: Path) -> None:
        self._unzipped = unzipped
        self._path = path
        self._left = most_unpacked(path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        content = self._unzipped.read(min(len(memoryview(buffer)), BLOCK_VALUES))
        self._left -= len(content)
        if self._left < 0:
            raise UserError(
                f"{self._path} unpacks to more than {_LARGEST_FACTOR} times its size, as no usual "
                "data do. If you trust it, unpack it yourself (gunzip), and convert the result."
            )
        memoryview(buffer)[: len(content)] = content
        return len(content)


@contextmanager
def open_unzipped(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file for reading, through gzip if its content is compressed.

    Raises
    ------
    UserError
        When it can't be read; later, when it unpacks to far more than data do.
    """
    with reading(path), path.open("rb") as file:
        compressed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        file.seek(0)
        if not compressed:
            yield file
            return
        with (
            gzip.GzipFile(fileobj=file) as unzipped,
            io.BufferedReader(_Limited(unzipped, path), BLOCK_VALUES) as limited,
        ):
            yield cast("io.BufferedReader", limited)


def stem(path: Path) -> str:
    """Return a file's name without `.gz` and the extension."""
    return Path(path.name.removesuffix(".gz")).stem


def sort_class_names(names: Sequence[str]) -> list[str]:
    """Sort class names, by value if all are numbers."""
    try:
        return sorted(names, key=float)
    except ValueError:
        return sorted(names)


def encode_labels(
    labels: Mapping[str, NDArray[Any]], path: Path
) -> tuple[tuple[str, ...], dict[str, NDArray[np.int32]]]:
    """Turn the label arrays of a source into class indices.

    Parameters
    ----------
    labels : mapping of str to ndarray, (num_rows,)
        Whole numbers or texts, by part.
    path : Path
        The file, for messages.

    Returns
    -------
    class_names : tuple of str
        The distinct labels, sorted.
    indices : dict of str to ndarray of int32, (num_rows,)
        By part.

    Raises
    ------
    UserError
        When the labels are neither whole numbers nor texts.
    """
    merged = np.concatenate([_discrete(array, path) for array in labels.values()])
    values, codes = np.unique(merged, return_inverse=True)
    ends = np.cumsum([len(array) for array in labels.values()])
    pieces = np.split(codes.astype(np.int32), ends[:-1])
    return tuple(map(str, values.tolist())), dict(zip(labels, pieces, strict=True))


def _discrete(labels: NDArray[Any], path: Path) -> NDArray[Any]:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise UserError(
            f"{path}: labels have shape {labels.shape}. Give one class per row, not a vector "
            "(from one-hot rows: labels.argmax(axis=1))."
        )
    if labels.dtype.kind == "S":
        try:
            return np.char.decode(labels, "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: its labels aren't UTF-8. Save them as texts.") from error
    if labels.dtype.kind == "U":
        return labels
    # In this sense so that NaN is refused as well.
    are_small = labels.dtype.kind in "uibf" and bool((np.abs(labels) <= _LARGEST_LABEL).all())
    if not are_small or (labels.dtype.kind == "f" and (labels % 1).any()):
        raise UserError(
            f"{path}: labels of type {labels.dtype} are no classes. Give whole numbers of usual "
            "size, or texts."
        )
    return labels.astype(np.int64)


def smallest_integer(minimum: float, maximum: float) -> np.dtype[Any]:
    """Return the smallest integer type that holds both, unsigned if it can be."""
    for name in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"):
        limits = np.iinfo(name)
        if limits.min <= minimum and maximum <= limits.max:
            return limits.dtype
    raise OverflowError(f"no integer type holds {minimum} and {maximum}")


def compact(x: NDArray[Any], what: str, path: Path) -> NDArray[Any]:
    """Return samples in the smallest type that loses nothing.

    Integers take the smallest integer type. Floating-point numbers stay, except that float64
    becomes float32 where that loses nothing.

    Parameters
    ----------
    x : ndarray, (num_rows, ...)
        The samples.
    what : str
        The array's name, for messages.
    path : Path
        Its file, for messages.

    Raises
    ------
    UserError
        When they are no numbers, or not finite.
    """
    if x.dtype.kind in "uib":
        return x.astype(smallest_integer(x.min(), x.max()), copy=False) if x.size else x
    if x.dtype.char not in "efd":
        raise UserError(f"{path}: {what} has type {x.dtype}. Give real numbers.")
    for start, block in blocks(x):
        bad = ~np.isfinite(block).reshape(len(block), -1).all(axis=1)
        if bad.any():
            raise UserError(
                f"{path}: {what} has values that aren't finite, first in row "
                f"{start + int(bad.argmax())} (counted from 0). Fill or drop them."
            )
    if x.dtype.char == "d" and all(_fits_float32(block) for _, block in blocks(x)):
        return x.astype(np.float32)
    return x


def blocks(x: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Give an array some rows at a time, each time with the first one's number."""
    rows = max(1, BLOCK_VALUES * len(x) // max(1, x.size))
    for start in range(0, len(x), rows):
        yield start, x[start : start + rows]


def _fits_float32(block: NDArray[Any]) -> bool:
    with np.errstate(over="ignore"):
        return bool((block.astype(np.float32) == block).all())
