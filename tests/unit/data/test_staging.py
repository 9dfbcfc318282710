"""Copies of the data set in a host's own storage: made once, checked, and nobody else's."""

import contextlib
import errno
import fcntl
import os
import resource
import shutil
import socket
import subprocess
import sys
from types import SimpleNamespace

import h5py
import pytest

from lockstep.data import staging
from lockstep.data.dataset_file import DatasetFile
from lockstep.data.staging import stage
from lockstep.errors import UserError

HOST = socket.gethostname()


@pytest.fixture
def original(digits_file, tmp_path):
    return shutil.copy(digits_file, tmp_path / "original.h5")


@pytest.fixture
def local(tmp_path):
    folder = tmp_path / "local"
    folder.mkdir()
    return folder


def staged(original, folder, warn=pytest.fail):
    with DatasetFile.open(original) as dataset:
        return stage(dataset, str(folder), warn)


def error_of(original, folder):
    with pytest.raises(UserError) as error:
        staged(original, folder)
    return str(error.value)


def content_of(local):
    """Return the names in this user's folder, apart from the lock."""
    (own,) = local.iterdir()
    return sorted(path.name for path in own.iterdir() if path.name != ".lock")


def test_the_copy_lies_in_a_folder_of_the_users_own_under_its_digest(original, local):
    copy = staged(original, local)
    assert copy.parent == local / f"lockstep-{os.geteuid()}"
    assert copy.parent.stat().st_mode & 0o777 == 0o700
    with DatasetFile.open(original) as dataset:
        assert copy.name.startswith(f"{dataset.info.content_sha256}-")
    assert copy.read_bytes() == original.read_bytes()
    assert content_of(local) == [copy.name]


def test_a_copy_that_is_there_is_used_again(original, local):
    first = staged(original, local)
    before = first.stat()
    assert staged(original, local) == first
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def flip_a_sample(path):
    with h5py.File(path, "r+") as file:
        file["validation/x"][1] += 1


def cut_off(path):
    os.truncate(path, path.stat().st_size // 2)


def scale(path):
    with h5py.File(path, "r+") as file:
        file.attrs["scale"] = 0.25


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [flip_a_sample, cut_off, scale, empty])
def test_a_copy_that_is_damaged_is_made_again(original, local, harm):
    copy = staged(original, local)
    harm(copy)
    warnings = []
    assert staged(original, local, warnings.append) == copy
    assert warnings == [f"The copy {copy} on {HOST} is damaged, and is made again."]
    assert copy.read_bytes() == original.read_bytes()


def test_data_sets_that_differ_only_in_their_scaling_have_a_copy_each(original, local):
    first = staged(original, local)
    scale(original)
    second = staged(original, local)
    assert content_of(local) == sorted([first.name, second.name])
    with DatasetFile.open(first) as one, DatasetFile.open(second) as other:
        assert one.info.content_sha256 == other.info.content_sha256
        assert (one.info.scale, other.info.scale) == (1 / 16, 0.25)


def test_an_original_that_is_damaged_is_not_staged(original, local):
    flip_a_sample(original)
    error = error_of(original, local)
    assert error.startswith(f"The copy of {original} on {HOST} is not what was recorded")
    assert "SHA-256" in error
    assert content_of(local) == []


def test_an_original_that_changes_meanwhile_is_not_staged(original, local):
    with DatasetFile.open(original) as dataset:
        other = shutil.copy(original, original.with_name("other.h5"))
        scale(other)
        other.replace(original)
        with pytest.raises(UserError, match="or has it changed meanwhile"):
            stage(dataset, str(local), pytest.fail)
    assert content_of(local) == []


def test_too_little_room_is_told_of_before_anything_is_copied(original, local, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=30_000))
    monkeypatch.setattr(shutil, "copyfile", pytest.fail)
    own = local / f"lockstep-{os.geteuid()}"
    assert error_of(original, local).startswith(
        f"Too little room in {own} on {HOST}: {original} has 0.1 MB, and 0.0 MB are free."
    )
    assert content_of(local) == []


def test_nothing_half_copied_is_left_when_the_disk_is_full(original, local):
    staged(original, local).unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        error = error_of(original, local)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    own = local / f"lockstep-{os.geteuid()}"
    assert error.startswith(f"Can't stage {original} to {own} on {HOST}: File too large.")
    assert content_of(local) == []


def test_what_a_killed_job_has_left_is_removed(original, local):
    copy = staged(original, local)
    leftover = copy.with_name(f".{copy.name}.0123456789abcdef.tmp")
    leftover.touch()
    staged(original, local)
    assert content_of(local) == [copy.name]


def test_without_locks_nothing_is_taken_away_from_another_job(original, local, monkeypatch):
    copy = staged(original, local)
    of_another = copy.with_name(f".{copy.name}.0123456789abcdef.tmp")
    of_another.touch()

    def no_locks(*_arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert staged(original, local) == copy
    assert content_of(local) == sorted([of_another.name, copy.name])


STAGE = """
import sys
from pathlib import Path
from lockstep.data.dataset_file import DatasetFile
from lockstep.data.staging import stage
with DatasetFile.open(Path(sys.argv[1])) as dataset:
    copy = stage(dataset, sys.argv[2], sys.exit)
with DatasetFile.open(copy) as dataset:
    dataset.verify()
"""


def test_jobs_that_stage_at_the_same_time_do_not_harm_each_other(original, local):
    copy = staged(original, local)
    copy.unlink()
    leftover = copy.with_name(f".{copy.name}.0123456789abcdef.tmp")
    with (copy.parent / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        jobs = [subprocess.Popen([sys.executable, "-c", STAGE, original, local]) for _ in range(3)]
        # As if another one were at it.
        leftover.touch()
        with contextlib.suppress(subprocess.TimeoutExpired):
            jobs[0].wait(1)
        assert [job.poll() for job in jobs] == [None] * 3
        assert content_of(local) == [leftover.name]
    assert [job.wait() for job in jobs] == [0] * 3
    assert content_of(local) == [copy.name]
    assert copy.read_bytes() == original.read_bytes()


def test_variables_are_those_of_the_host(original, local, monkeypatch):
    monkeypatch.setenv("STAGING_FOLDER", str(local.parent))
    for text in ("$STAGING_FOLDER/local", "${STAGING_FOLDER}/local"):
        assert staged(original, text).parent.parent == local
    dollar = local.parent / "a $ folder"
    dollar.mkdir()
    assert staged(original, f"{local.parent}/a $$ folder").parent.parent == dollar


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("$STAGING_UNSET/x", "the environment variable STAGING_UNSET is not set on {host}."),
        ("$STAGING_EMPTY", "the environment variable STAGING_EMPTY is not set on {host}."),
        ("/tmp/$", "after $ comes the name of an environment variable"),
        ("/no/such/folder", "/no/such/folder is no folder on {host}. Make it there, or name"),
        ("no\0folder", "no\0folder is no folder on {host}."),
    ],
)
def test_a_folder_that_will_not_do_is_told_with_its_host(original, folder, message, monkeypatch):
    monkeypatch.setenv("STAGING_EMPTY", "")
    error = error_of(original, folder)
    assert error.startswith(f"stage = {folder!r}: {message.format(host=HOST)}")


def test_a_folder_that_can_not_be_written_to(original):
    assert error_of(original, "/proc").startswith(
        f"Can't make the folder /proc/lockstep-{os.geteuid()} on {HOST}: "
    )


def make_link(own):
    target = own.with_name("target")
    target.mkdir(0o700)
    own.symlink_to(target)


def make_file(own):
    own.touch(0o600)


def make_readable(own):
    own.mkdir()
    own.chmod(0o755)


def make_foreign(own):
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    own.mkdir(0o700)
    os.chown(own, 12345, -1)


@pytest.mark.parametrize("make", [make_link, make_file, make_readable, make_foreign])
def test_a_folder_that_others_may_change_is_refused(original, local, make):
    own = local / f"lockstep-{os.geteuid()}"
    make(own)
    assert error_of(original, local).startswith(
        f"{own} on {HOST} is not a folder of yours alone (mode 0700)"
    )
    assert not list(local.glob("**/*.h5"))


def test_the_name_tells_every_attribute(digits_file):
    with DatasetFile.open(digits_file) as dataset:
        values = vars(dataset.info)
    names = {staging.copy_name(SimpleNamespace(**values))}
    for name, value in values.items():
        other = {"train": 1} if isinstance(value, dict) else f"other than {value}"
        names.add(staging.copy_name(SimpleNamespace(**values | {name: other})))
    assert len(names) == 1 + len(values)
