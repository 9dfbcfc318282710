"""Tables in CSV files, read once, in blocks, whatever their size."""

import csv
import io
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice, pairwise
from math import isfinite
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data.progress import progress
from lockstep.data.sources.base import (
    Part,
    Request,
    Source,
    SourceFile,
    open_unzipped,
    smallest_integer,
    sort_class_names,
    stem,
)
from lockstep.errors import UserError

_DELIMITERS = ("\t", ";", ",")
_MISSING = {"", "?", "na", "n/a", "nan", "null", "none"}
_SAMPLE_RECORDS = 10
_SHOWN_CELLS = 12
# As text, a cell takes some sixty bytes.
_BLOCK_CELLS = 2**17
_LARGEST = float(np.finfo(np.float32).max)
# Beyond this, not every integer is a float64.
_EXACT = 2**53


def load(request: Request) -> Source:
    """Read a table.

    The rows go through a temporary file, each block in the smallest type for it, so that they
    can be fetched in any order without being held in memory.

    Parameters
    ----------
    request : Request
        Heeds `label_column`, `header` and `delimiter`.

    Returns
    -------
    Source
        Whole numbers in the smallest integer type, others in float32.

    Raises
    ------
    UserError
        When a cell is missing or no finite number, or a row too short or too long; it names
        line and column.
    """
    path = request.path
    layout = _detect(request)
    spool = _Spool(request, layout.block_rows, layout.num_features)
    labels = _Labels()
    with progress(f"Reading {path.name}", None, "row") as advance:
        for block in _read_blocks(path, layout):
            spool.append(block.features(layout))
            labels.extend(block.labels)
            advance(len(block.labels))
    if spool.num_rows == 0:
        raise UserError(f"{path} has no rows.")
    class_names, indices = labels.encoded(path)
    return Source(
        name=stem(path),
        files=[SourceFile.of(path)],
        class_names=class_names,
        feature_shape=(layout.num_features,),
        dtype=spool.dtype(),
        parts={"all": Part(spool, indices)},
    )


@dataclass(frozen=True)
class _Layout:
    """How a file is to be read.

    Parameters
    ----------
    path : Path
        The file.
    delimiter : str
        What stands between cells.
    has_header : bool
        Whether its first row names the columns.
    names : tuple of str
        The columns' names, or their positions.
    label : int
        The position of the label column.
    """

    path: Path
    delimiter: str
    has_header: bool
    names: tuple[str, ...]
    label: int

    @property
    def num_features(self) -> int:
        return len(self.names) - 1

    @property
    def block_rows(self) -> int:
        return max(1, _BLOCK_CELLS // self.num_features)


def _detect(request: Request) -> _Layout:
    path = request.path
    delimiter = request.delimiter or detect_delimiter(path)
    with open_records(path, delimiter) as records:
        sample = [cells for _, cells in islice(records, _SAMPLE_RECORDS)]
    if not sample:
        raise UserError(f"{path} is empty.")
    first = [cell.strip() for cell in sample[0]]
    if len(first) < 2:
        raise UserError(
            f"{path} has one column only. It needs features and a label; if its cells are "
            "separated by something else than a comma, semicolon or tab, say so with --delimiter."
        )
    has_header = _detect_header(sample, request)
    return _Layout(
        path=path,
        delimiter=delimiter,
        has_header=has_header,
        names=tuple(first if has_header else map(str, range(len(first)))),
        label=_find_label(first, has_header, request),
    )


def detect_delimiter(path: Path) -> str:
    """Return the delimiter that cuts the first rows into the same number of cells."""
    widths = {delimiter: list(_first_widths(path, delimiter)) for delimiter in _DELIMITERS}
    for delimiter, found in widths.items():
        if found and found[0] > 1 and len(set(found)) == 1:
            return delimiter
    return max(reversed(_DELIMITERS), key=lambda delimiter: max(widths[delimiter], default=0))


def _first_widths(path: Path, delimiter: str) -> Iterator[int]:
    """Give the number of cells in each of the first rows that this delimiter can cut."""
    # What is wrong with the file is said when it is read with the right delimiter.
    with suppress(UserError), open_records(path, delimiter) as records:
        for _, cells in islice(records, _SAMPLE_RECORDS):
            yield len(cells)


def _detect_header(sample: list[list[str]], request: Request) -> bool:
    """Return whether the first row names the columns.

    It does when a feature in it is neither a number nor missing, or when its label is a word
    over a column of numbers.
    """
    if request.header is not None:
        return request.header
    first = [cell.strip() for cell in sample[0]]
    words = [not _is_number(cell) and cell.lower() not in _MISSING for cell in first]
    # A number is a position here: the row may hold data, where it is no name.
    label = _find_label(first, not _is_number(request.label_column or "0"), request)
    if any(words[:label] + words[label + 1 :]):
        return True
    below = [cells[label].strip() for cells in sample[1:] if len(cells) > label]
    return words[label] and bool(below) and all(map(_is_number, below))


def _find_label(first: list[str], has_header: bool, request: Request) -> int:
    """Return the position of the label column."""
    wanted = request.label_column
    if wanted is None:
        return len(first) - 1
    if has_header and wanted in first:
        if first.count(wanted) > 1:
            raise UserError(
                f"{request.path} has several columns named {wanted!r}: give the label's position "
                "with --label-column, counted from 0."
            )
        return first.index(wanted)
    try:
        return range(len(first))[int(wanted)]
    except (ValueError, IndexError):
        cells = ", ".join(first[:_SHOWN_CELLS]) + (", ..." if len(first) > _SHOWN_CELLS else "")
        raise UserError(
            f"{request.path} has no column {wanted!r} for --label-column. Its first row has "
            f"{len(first)} cells ({cells}): give the name of one, or its position, "
            "counted from 0 or, if negative, from the end."
        ) from None


@dataclass
class _Block:
    """Some rows: the text of their features, their labels, and the lines they end on."""

    cells: list[list[str]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)

    def features(self, layout: _Layout) -> NDArray[np.float64]:
        """Return the features, (rows, num_features); say where one is wrong."""
        try:
            values = np.array(self.cells, dtype=np.float64)
        except ValueError:
            values = None
        if values is None or not (np.abs(values) <= _LARGEST).all():
            raise self._first_wrong(layout)
        return values

    def _first_wrong(self, layout: _Layout) -> UserError:
        names = layout.names[: layout.label] + layout.names[layout.label + 1 :]
        for line, row in zip(self.lines, self.cells, strict=True):
            for name, cell in zip(names, row, strict=True):
                if (what := _what_is_wrong(cell)) is not None:
                    return _wrong_cell(layout.path, line, name, what)
        raise AssertionError("every cell is right")


def _read_blocks(path: Path, layout: _Layout) -> Iterator[_Block]:
    with open_records(path, layout.delimiter) as records:
        if layout.has_header:
            next(records)
        block = _Block()
        for line, cells in records:
            if len(cells) != len(layout.names):
                raise UserError(
                    f"{path}, line {line}: {len(cells)} cells instead of {len(layout.names)}. "
                    "Every row should have as many as the first."
                )
            label = cells.pop(layout.label).strip()
            if label.lower() in _MISSING:
                name = layout.names[layout.label]
                raise _wrong_cell(path, line, name, "the label is missing")
            block.cells.append(cells)
            block.labels.append(label)
            block.lines.append(line)
            if len(block.cells) == layout.block_rows:
                yield block
                block = _Block()
        if block.cells:
            yield block


@contextmanager
def open_records(path: Path, delimiter: str) -> Iterator[Iterator[tuple[int, list[str]]]]:
    """Open a file as pairs of the line number and the cells, empty lines left out."""
    with (
        open_unzipped(path) as raw,
        io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text,
    ):
        yield _records(path, text, delimiter)


def _records(path: Path, text: IO[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}.") from error
    except UnicodeDecodeError as error:
        where = f", after line {reader.line_num}" if reader.line_num else ""
        raise UserError(f"{path}{where}: the text isn't UTF-8. Save it as UTF-8.") from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _what_is_wrong(cell: str) -> str | None:
    if cell.strip().lower() in _MISSING:
        return "the value is missing. Fill it in, or drop the row"
    if not _is_number(cell):
        return (
            f"{cell!r} is no number (decimals take a point). If the column holds the labels, name "
            "it with --label-column"
        )
    if not isfinite(float(cell)):
        return f"{cell!r} isn't finite"
    if abs(float(cell)) > _LARGEST:
        return f"{cell!r} is too large for float32. Scale the column"
    return None


def _wrong_cell(path: Path, line: int, column: str, what: str) -> UserError:
    return UserError(f"{path}, line {line}, column {column}: {what}.")


class _Labels:
    """Collects labels as they come, each text once."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._rows = array("i")

    def extend(self, labels: Iterable[str]) -> None:
        """Add the labels of some rows."""
        self._rows.extend(self._codes.setdefault(label, len(self._codes)) for label in labels)

    def encoded(self, path: Path) -> tuple[tuple[str, ...], NDArray[np.int32]]:
        """Return the sorted class names, and the class index of each row."""
        names = sort_class_names(list(self._codes))
        if all(map(_is_number, names)):
            for name, other in pairwise(names):
                if float(name) == float(other):
                    raise UserError(
                        f"{path}: the labels {name!r} and {other!r} are the same number. Spell "
                        "it in one way."
                    )
        index = np.empty(len(names), dtype=np.int32)
        index[[self._codes[name] for name in names]] = np.arange(len(names))
        return tuple(names), index[np.frombuffer(self._rows, dtype=np.intc)]


class _Spool:
    """Rows in an unnamed temporary file, from which they can be fetched in any order.

    Each block of rows is in the smallest type for it; the type of all is known at the end.
    """

    def __init__(self, request: Request, block_rows: int, num_features: int) -> None:
        self.num_rows = 0
        self._scratch = request.scratch
        self._block_rows = block_rows
        self._num_features = num_features
        self._blocks: list[tuple[int, np.dtype[Any]]] = []
        self._all_integers = True
        self._minimum, self._maximum = np.inf, -np.inf
        with self._writing():
            temporary = tempfile.TemporaryFile(dir=self._scratch)  # noqa: SIM115 - closed by the stack
        self._file = request.resources.enter_context(temporary)

    def append(self, values: NDArray[np.float64]) -> None:
        """Add a block, (block_rows, num_features); only the last one may be shorter."""
        minimum, maximum = float(values.min()), float(values.max())
        integers = max(-minimum, maximum) <= _EXACT and bool((values == np.rint(values)).all())
        dtype = smallest_integer(minimum, maximum) if integers else np.dtype(np.float32)
        with self._writing():
            self._blocks.append((self._file.tell(), dtype))
            self._file.write(values.astype(dtype).data)
            self._file.flush()
        self.num_rows += len(values)
        self._all_integers &= integers
        self._minimum = min(self._minimum, minimum)
        self._maximum = max(self._maximum, maximum)

    def dtype(self) -> np.dtype[Any]:
        """Return the smallest type for all rows."""
        if self._all_integers:
            return smallest_integer(self._minimum, self._maximum)
        return np.dtype(np.float32)

    def fetch(self, numbers: NDArray[np.intp]) -> NDArray[Any]:
        """Return the rows with these numbers, (len(numbers), num_features)."""
        rows = np.empty((len(numbers), self._num_features), dtype=self.dtype())
        descriptor = self._file.fileno()
        for row, number in zip(rows, numbers.tolist(), strict=True):
            block, place = divmod(number, self._block_rows)
            start, dtype = self._blocks[block]
            num_bytes = self._num_features * dtype.itemsize
            # Not a memory map: its pages would count as memory of this process.
            row[:] = np.frombuffer(
                os.pread(descriptor, num_bytes, start + place * num_bytes), dtype
            )
        return rows

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"Can't write a temporary file to {self._scratch}: {error.strerror}. It needs "
                "room for the table's numbers."
            ) from error
