"""MNIST from the network: whichever mirror answers, the content is the one that is known."""

import hashlib
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urljoin

import pooch
import requests

from lockstep.data.sources import idx
from lockstep.data.sources.base import Request, Source, open_unzipped
from lockstep.errors import UserError

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "http://yann.lecun.com/exdb/mnist/",
)

# Of the unpacked files: mirrors may compress them differently.
CONTENT_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}

_TIMEOUT_S = 30


def load(request: Request) -> Source:
    """Download MNIST, unless it is in the cache, and read it.

    Parameters
    ----------
    request : Request
        Heeds `mirrors`.

    Returns
    -------
    Source
        As of a folder of IDX files.

    Raises
    ------
    UserError
        When no mirror gives the right files.
    """
    folder = cache_folder() / "mnist"
    fetch(folder, request.mirrors or MIRRORS, CONTENT_SHA256)
    return idx.load(replace(request, path=folder))


def cache_folder() -> Path:
    """Return the folder for downloads: LOCKSTEP_CACHE, or the system's usual place."""
    return Path(os.environ.get("LOCKSTEP_CACHE") or pooch.os_cache("lockstep"))


def fetch(folder: Path, mirrors: Sequence[str], digests: Mapping[str, str]) -> None:
    """Bring files into a folder, each compressed and with the content that it should have.

    Parameters
    ----------
    folder : Path
        Made if need be. Files that are there already, and right, are kept.
    mirrors : sequence of str
        URLs of folders that hold the files, tried in this order.
    digests : mapping of str to str
        The SHA-256 of each file's unpacked content, by the file's name without `.gz`.

    Raises
    ------
    UserError
        When no mirror gives one of the files; it tells what each of them said.
    """
    pooch.get_logger().setLevel("ERROR")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        untried = list(mirrors)
        for name, digest in digests.items():
            if _fault(folder / f"{name}.gz", digest) is not None:
                untried = _download(folder, name, digest, untried)
    except OSError as error:
        raise UserError(
            f"Can't write the downloads to {folder}: {error}. "
            "Set LOCKSTEP_CACHE to a folder that you may write to."
        ) from error


def _download(folder: Path, name: str, digest: str, mirrors: Sequence[str]) -> list[str]:
    """Download one file and return the mirrors, those that failed last."""
    failures: dict[str, str] = {}
    for mirror in mirrors:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
            path = Path(scratch) / f"{name}.gz"
            failure = _retrieve(mirror, path) or _fault(path, digest)
            if failure is None:
                path.replace(folder / path.name)
                return [*(other for other in mirrors if other not in failures), *failures]
        failures[mirror] = failure
    said = "; ".join(f"{mirror} said: {failure}" for mirror, failure in failures.items())
    raise UserError(
        f"No mirror gave {name}.gz. {said}. Get the four files {', '.join(idx.FILES)} (.gz or "
        "unpacked) by hand, put them into one folder, and convert it with "
        "`lockstep convert FOLDER OUT.h5`; or name another mirror with --mirror URL."
    )


def _retrieve(mirror: str, path: Path) -> str | None:
    """Download a file and return what went wrong, or None."""
    downloader = pooch.HTTPDownloader(timeout=_TIMEOUT_S, progressbar=sys.stderr.isatty())
    try:
        pooch.retrieve(
            urljoin(f"{mirror.rstrip('/')}/", path.name),
            known_hash=None,
            fname=path.name,
            path=path.parent,
            downloader=downloader,
        )
    except (requests.RequestException, ValueError) as error:
        return str(error)
    return None


def _fault(path: Path, digest: str) -> str | None:
    """Return what is wrong with a downloaded file's content, or None."""
    if not path.is_file():
        return "the file is missing"
    try:
        with open_unzipped(path) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except UserError as error:
        return f"the file is damaged ({error})"
    if found != digest:
        return f"its content has SHA-256 {found} instead of {digest}"
    return None
