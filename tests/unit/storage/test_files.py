import os
import stat
import threading
from pathlib import Path

import pytest

from lockstep.files import atomic_path


def permissions(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o022, 0o027, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_permissions_are_those_of_any_new_file(tmp_path, umask):
    with atomic_path(tmp_path / "written") as temporary:
        temporary.write_text("content")
    with atomic_path(tmp_path / "replaced") as temporary:
        # As safetensors does: a private file of its own takes the name.
        private = tmp_path / "private"
        private.touch(mode=0o600)
        private.replace(temporary)
    assert permissions(tmp_path / "written") == 0o666 & ~umask
    assert permissions(tmp_path / "replaced") == 0o666 & ~umask


def test_files_that_appear_meanwhile_keep_their_permissions(tmp_path):
    is_done = threading.Event()

    def write():
        while not is_done.is_set():
            with atomic_path(tmp_path / "results") as temporary:
                temporary.write_text("content")

    before = os.umask(0o077)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(300):
            path = tmp_path / str(number)
            path.touch()
            assert permissions(path) == 0o600
    finally:
        is_done.set()
        writer.join()
        os.umask(before)


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write():
        with atomic_path(path) as temporary:
            temporary.write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_first_error_is_the_one_that_is_told(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "unlink", fail)
    with pytest.raises(ValueError, match="the first"), atomic_path(tmp_path / "file"):
        raise ValueError("the first")


def test_two_writers_of_one_name_do_not_meet(tmp_path):
    path = tmp_path / "file"
    with atomic_path(path) as one, atomic_path(path) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]
