"""Conversion of any source to a dataset file."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, fields
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data.dataset_file import (
    SPLITS,
    DatasetFile,
    DatasetInfo,
    is_text,
)
from lockstep.data.dataset_writer import DatasetWriter, Header, create_dataset_file
from lockstep.data.moments import Moments
from lockstep.data.progress import progress
from lockstep.data.recognize import OPTIONS, Kind, recognize
from lockstep.data.sources.base import Part, Request, Source
from lockstep.data.split import num_rows, shuffled, stratified
from lockstep.errors import UserError
from lockstep.streams import Purpose


@dataclass(frozen=True)
class ConvertOptions:
    """How a source is converted.

    Parameters
    ----------
    seed : int
        Draws the split and the order of the training rows, 0 <= seed < 2**64.
    validation, test : float or None
        Sizes of these splits: below 1 a share of the rows, else their number. None for the
        source's own split or, where it has none, for 10 percent.
    standardize : bool
        Scale each feature to mean 0 and standard deviation 1 over the training rows. Advisable
        for tables; images come with a scale of their own.
    scale : float or None
        Multiply all features by this number instead of the source's own scale.
    chunk_rows : int or None
        Rows in an HDF5 chunk; None for about a megabyte.
    label_column : str or None
        Tables: the label column's name or position, counted from 0 or, if negative, from the
        end. None for the last.
    header : bool or None
        Tables: whether the first line names the columns. None to detect it.
    delimiter : str or None
        Tables: the character between cells. None to detect it.
    image_size : tuple of int or None
        Image folders: height and width. None for those of the first image.
    color : str or None
        Image folders: "gray" or "rgb". None for gray if all images are gray.
    mirrors : tuple of str
        MNIST: where to download from, instead of the usual places.
    overwrite : bool
        Replace an existing file.
    """

    seed: int = 0
    validation: float | None = None
    test: float | None = None
    standardize: bool = False
    scale: float | None = None
    chunk_rows: int | None = None
    label_column: str | None = None
    header: bool | None = None
    delimiter: str | None = None
    image_size: tuple[int, int] | None = None
    color: str | None = None
    mirrors: tuple[str, ...] = ()
    overwrite: bool = False


@dataclass(frozen=True)
class _Selection:
    """The rows that make a split, in the order in which they are stored."""

    part: Part
    numbers: NDArray[np.intp]

    @property
    def labels(self) -> NDArray[np.int32]:
        return self.part.labels[self.numbers]


def convert(source: str, out: Path, options: ConvertOptions | None = None) -> DatasetInfo:
    """Convert a source to a dataset file.

    Parameters
    ----------
    source : str
        `digits`, `mnist`, or a file or folder (see `lockstep.data.recognize`).
    out : Path
        The file to write. Its folder is made if need be; the file appears only when it is whole.
    options : ConvertOptions or None
        None for the defaults.

    Returns
    -------
    DatasetInfo
        What was written.

    Raises
    ------
    UserError
        When the source is unknown or wrong in any way, an option doesn't apply to it, or `out`
        exists or can't be written.
    """
    options = options or ConvertOptions()
    _check_values(options)
    kind = recognize(source)
    request_options = _applicable(kind, options)
    _prepare(out, Path(source), options.overwrite)
    with ExitStack() as resources:
        request = Request(Path(source), out.parent, resources, **request_options)
        loaded = _loader(kind)(request)
        _check_classes(loaded, source)
        _check_texts(loaded, source)
        _write(out, loaded, _split(loaded, source, options), Path(source).name, options)
    with DatasetFile.open(out) as file:
        return file.info


def _loader(kind: Kind) -> Callable[[Request], Source]:
    # Each source's module brings libraries that are slow to import, so only one is imported.
    load: Callable[[Request], Source] = import_module(f"lockstep.data.sources.{kind}").load
    return load


def _check_values(options: ConvertOptions) -> None:
    if not 0 <= options.seed < 2**64:
        raise UserError(f"--seed {options.seed} should be from 0 to 2**64 - 1.")
    if options.scale is not None and not (isfinite(options.scale) and options.scale != 0):
        raise UserError(f"--scale {options.scale} should be a finite number other than 0.")
    if options.scale is not None and options.standardize:
        raise UserError("--scale and --standardize exclude each other: give one of them.")
    if options.chunk_rows is not None and options.chunk_rows < 1:
        raise UserError(f"--chunk-rows {options.chunk_rows} should be 1 or more.")
    if options.image_size is not None and min(options.image_size) < 1:
        raise UserError(f"--image-size {options.image_size} should be two positive numbers.")
    if options.delimiter is not None and (
        len(options.delimiter) != 1 or options.delimiter in '"\r\n'
    ):
        raise UserError(
            f"--delimiter {options.delimiter!r} should be one character, and no quotation mark "
            "(for a tab, leave it out: it is detected)."
        )
    if options.color not in {None, "gray", "rgb"}:
        raise UserError(f"--color {options.color} should be gray or rgb.")


def _applicable(kind: Kind, options: ConvertOptions) -> dict[str, Any]:
    """Return the options meant for the source; refuse those for sources of other kinds."""
    given = {
        field.name: getattr(options, field.name)
        for field in fields(options)
        if getattr(options, field.name) != field.default
    }
    for_sources = set().union(*OPTIONS.values())
    for name in given.keys() & (for_sources - OPTIONS[kind]):
        takers = [other.description for other in Kind if name in OPTIONS[other]]
        raise UserError(
            f"--{name.replace('_', '-').removesuffix('s')} doesn't apply to "
            f"{kind.description}, only to {' and '.join(takers)}: leave it out."
        )
    return {name: value for name, value in given.items() if name in OPTIONS[kind]}


def _prepare(out: Path, source: Path, overwrite: bool) -> None:
    if out.is_dir():
        raise UserError(f"{out} is a folder: name the file to be written, such as {out}/data.h5.")
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists already: name another file, or add --overwrite.")
    if out.exists() and source.exists() and out.samefile(source):
        raise UserError(f"{out} is the source itself: name another file.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Can't make the folder {out.parent}: {error.strerror}.") from error


def _check_classes(loaded: Source, source: str) -> None:
    if len(loaded.class_names) < 2:
        raise UserError(
            f"{source} has one class only, {loaded.class_names[0]!r}: there is nothing to tell "
            "apart. Check which column or folder holds the labels."
        )


def _check_texts(loaded: Source, source: str) -> None:
    """See that HDF5 can hold all names: file names needn't be text, nor labels free of zeros."""
    names = [file.name for file in loaded.files]
    for text in (loaded.name, Path(source).name, *loaded.class_names, *names):
        if not is_text(text):
            raise UserError(
                f"{source}: the name {text!r} has characters that a data set can't hold. Give "
                "the file, folder or class another one."
            )


def _split(loaded: Source, source: str, options: ConvertOptions) -> dict[str, _Selection]:
    parts = loaded.parts
    if "all" in parts:
        splits = _split_all(parts["all"], loaded.class_names, options)
    else:
        _refuse_ready_sizes(loaded, source, options)
        splits = {name: _everything(part) for name, part in parts.items()}
        if "validation" not in splits:
            splits |= _hold_out_last(parts["train"], options.validation)
    _check_training_classes(splits["train"], loaded.class_names, source)
    train = splits["train"]
    order = shuffled(len(train.numbers), options.seed, Purpose.SHUFFLE)
    return splits | {"train": _Selection(train.part, train.numbers[order])}


def _split_all(
    part: Part, class_names: tuple[str, ...], options: ConvertOptions
) -> dict[str, _Selection]:
    total = len(part.labels)
    numbers = stratified(
        part.labels,
        class_names,
        num_rows(options.validation, total, "validation"),
        num_rows(options.test, total, "test"),
        options.seed,
    )
    return {split: _Selection(part, numbers[split]) for split in SPLITS}


def _refuse_ready_sizes(loaded: Source, source: str, options: ConvertOptions) -> None:
    for name in loaded.parts:
        if getattr(options, name, None) is not None:
            raise UserError(
                f"--{name} doesn't apply to {source}, which comes with its own {name} split: "
                "leave it out."
            )


def _everything(part: Part) -> _Selection:
    return _Selection(part, np.arange(len(part.labels)))


def _hold_out_last(part: Part, wanted: float | None) -> dict[str, _Selection]:
    """Take the last training rows for validation, a sixth by default: 10,000 of MNIST's 60,000."""
    total = len(part.labels)
    rows = num_rows(1 / 6 if wanted is None else wanted, total, "validation")
    if rows >= total:
        raise UserError(
            f"--validation {rows} leaves no training rows: there are {total} in all. Give less."
        )
    numbers = np.arange(total)
    return {
        "train": _Selection(part, numbers[: total - rows]),
        "validation": _Selection(part, numbers[total - rows :]),
    }


def _check_training_classes(train: _Selection, class_names: tuple[str, ...], source: str) -> None:
    counts = np.bincount(train.labels, minlength=len(class_names))
    if not counts.all():
        raise UserError(
            f"{source}: class {class_names[int(counts.argmin())]!r} has no training row, so it "
            "can't be learned. Check the labels, or hold out fewer rows with --validation."
        )


def _write(
    out: Path,
    loaded: Source,
    splits: dict[str, _Selection],
    source: str,
    options: ConvertOptions,
) -> None:
    header = Header(
        name=loaded.name,
        class_names=loaded.class_names,
        feature_shape=loaded.feature_shape,
        dtype=loaded.dtype,
        image_form=loaded.image_form,
        # A source's own scale brings white to 1, whatever scale the user asks for.
        white=round(1 / loaded.scale),
        source=source,
        source_files=tuple(file.name for file in loaded.files),
        source_sha256=tuple(file.sha256 for file in loaded.files),
        shuffle_seed=options.seed,
        chunk_rows=options.chunk_rows,
    )
    scale = loaded.scale if options.scale is None else options.scale
    total = sum(len(selection.numbers) for selection in splits.values())
    with (
        create_dataset_file(out, header) as writer,
        progress(f"Writing {out.name}", total, "row") as advance,
    ):
        moments = Moments(loaded.feature_shape) if options.standardize else None
        for split in SPLITS:
            counted = moments if split == "train" else None
            blocks = _blocks(splits[split], header.block_rows, counted, advance)
            writer.write_split(split, blocks, splits[split].labels)
        _finish(writer, moments, scale)


def _finish(writer: DatasetWriter, moments: Moments | None, scale: float) -> None:
    if moments is None:
        writer.finish(scale, 0.0)
    else:
        writer.finish(*moments.standardization())


def _blocks(
    selection: _Selection,
    block_rows: int,
    moments: Moments | None,
    advance: Callable[[int], object],
) -> Iterator[NDArray[Any]]:
    for start in range(0, len(selection.numbers), block_rows):
        block = selection.part.rows.fetch(selection.numbers[start : start + block_rows])
        if moments is not None:
            moments.add(block)
        advance(len(block))
        yield block
