"""Files: whether the data set can be read, how fast, and whether there is room for results."""

import os
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path
from shutil import disk_usage
from time import perf_counter

import h5py

from lockstep.data.dataset_file import LOCKING_VARIABLE, DatasetFile, block_rows
from lockstep.doctor.findings import Finding
from lockstep.errors import UserError

_TOPIC = "Files"
_READ_S = 3.0
_SLOW_READ_S = 60
_LITTLE_BYTES = 10**9
# The unit in which the system counts what was fetched from a disk.
_SECTOR_BYTES = 512


def examine(data: Path | None, results: Path) -> Iterator[Finding]:
    """Yield what is found about HDF5, a data set and the room for results.

    Parameters
    ----------
    data : Path, optional
        A data set file.
    results : Path
        Where run folders are to live; need not exist.
    """
    yield _hdf5()
    yield (
        _dataset(data)
        if data
        else Finding(
            "note",
            _TOPIC,
            "No data set was read.",
            "`lockstep doctor --data FILE.h5` tells how fast yours can be.",
        )
    )
    yield _room(results)


def _hdf5(environment: Mapping[str, str] = os.environ) -> Finding:
    text = f"h5py {h5py.version.version} with HDF5 {h5py.version.hdf5_version}"
    wanted = environment.get(LOCKING_VARIABLE, "FALSE")
    if wanted.upper() in {"FALSE", "0"}:
        return Finding("ok", _TOPIC, f"{text}, which reads data sets without locking them.")
    return Finding(
        "note",
        _TOPIC,
        f"{text}, which locks each file that it opens, for {LOCKING_VARIABLE} is {wanted}.",
        f"If data sets on a network file system can't be opened: unset {LOCKING_VARIABLE}.",
    )


def _dataset(path: Path) -> Finding:
    try:
        with DatasetFile.open(path) as dataset:
            _drop_from_cache(path)
            return _read(dataset)
    except UserError as error:
        return Finding("broken", _TOPIC, str(error))


def _drop_from_cache(path: Path) -> None:
    """Ask the system to forget what it has in memory of a file, where it knows how to."""
    if hasattr(os, "posix_fadvise"):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _read(dataset: DatasetFile) -> Finding:
    """Read training rows in blocks, as a training does, for a few seconds at the most."""
    info = dataset.info
    row_bytes = info.num_features * info.dtype.itemsize
    num_rows = info.num_samples["train"]
    block = block_rows(info.dtype, info.feature_shape)
    done, fetched_before = 0, _fetched_bytes()
    start_s = perf_counter()
    while done < num_rows and perf_counter() - start_s < _READ_S:
        stop = min(num_rows, done + block)
        dataset.read("train", done, stop)
        done = stop
    spent_s = perf_counter() - start_s
    read_bytes = done * row_bytes
    fetched_bytes = _fetched_bytes() - fetched_before
    bytes_per_s = read_bytes / spent_s
    all_s = num_rows * row_bytes / bytes_per_s
    figures = {
        "bytes": read_bytes,
        "seconds": spent_s,
        "bytes_fetched_from_disk": fetched_bytes,
        "bytes_per_s": bytes_per_s,
    }
    text = (
        f"{dataset.path}: {bytes_per_s / 1e6:,.0f} MB/s, so all {num_rows:,} training rows "
        f"({num_rows * row_bytes / 1e6:,.1f} MB) take {all_s:.2g} s."
    )
    if fetched_bytes < read_bytes / 2:
        return Finding(
            "note",
            _TOPIC,
            f"{text} But the system counts only {fetched_bytes / 1e6:,.1f} of "
            f"{read_bytes / 1e6:,.1f} MB as read from a disk: the rest was in its cache in memory, "
            "or came over a network.",
            "The first reading after a start of the machine may be slower.",
            figures,
        )
    if all_s > _SLOW_READ_S:
        remedy = "Copy the data set to a disk of the host's own before the training."
        return Finding("warning", _TOPIC, text, remedy, figures)
    return Finding("ok", _TOPIC, text, figures=figures)


def _fetched_bytes() -> int:
    return _SECTOR_BYTES * resource.getrusage(resource.RUSAGE_SELF).ru_inblock


def _room(results: Path) -> Finding:
    folder = results.absolute()
    while not folder.is_dir():
        folder = folder.parent
    free_bytes = disk_usage(folder).free
    figures = {"folder": str(folder), "free_bytes": free_bytes}
    text = f"{free_bytes / 1e9:,.1f} GB free for results in {folder}"
    if not os.access(folder, os.W_OK):
        return Finding(
            "broken",
            _TOPIC,
            f"{text}, but you may not write there.",
            "Name another folder: lockstep train --results FOLDER.",
            figures,
        )
    if free_bytes < _LITTLE_BYTES:
        return Finding(
            "warning",
            _TOPIC,
            f"{text}.",
            "Checkpoints need room: make some, or name another folder with --results.",
            figures,
        )
    return Finding("ok", _TOPIC, f"{text}.", figures=figures)
