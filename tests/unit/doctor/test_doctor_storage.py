import os

import pytest

from lockstep.doctor import storage


def test_reading_a_data_set_is_timed(digits_file, tmp_path):
    hdf5, data, room = storage.examine(digits_file, tmp_path / "not" / "there")
    assert hdf5.text.startswith("h5py 3.")
    assert data.severity in {"ok", "note"}
    assert "1,437 training rows" in data.text
    # 8x8 pixels of a byte each.
    assert data.figures["bytes"] == 1437 * 64
    assert data.figures["bytes_per_s"] == pytest.approx(1437 * 64 / data.figures["seconds"])
    assert room.figures["folder"] == str(tmp_path)


def test_what_comes_from_memory_is_not_taken_for_the_disks_speed(
    digits_file, tmp_path, monkeypatch
):
    monkeypatch.setattr(storage, "_fetched_bytes", lambda: 0)
    _, data, _ = storage.examine(digits_file, tmp_path)
    assert data.severity == "note"
    assert "only 0.0 of 0.1 MB as read from a disk" in data.text


def test_a_slow_disk_is_named(digits_file, tmp_path, monkeypatch):
    fetched = iter([0, 10**9])
    monkeypatch.setattr(storage, "_fetched_bytes", lambda: next(fetched))
    monkeypatch.setattr(storage, "_SLOW_READ_S", 0)
    _, data, _ = storage.examine(digits_file, tmp_path)
    assert data.severity == "warning"
    assert "disk of the host's own" in data.remedy


def test_a_file_that_is_no_data_set_is_broken(tmp_path):
    path = tmp_path / "x.h5"
    path.write_text("nothing")
    _, data, _ = storage.examine(path, tmp_path)
    assert data.severity == "broken"
    assert "is no HDF5 file" in data.text
    _, data, _ = storage.examine(None, tmp_path)
    assert "--data" in data.remedy


@pytest.mark.parametrize(
    ("wanted", "severity"),
    [(None, "ok"), ("FALSE", "ok"), ("TRUE", "note"), ("BEST_EFFORT", "note")],
)
def test_an_environment_that_wants_files_locked_is_named(monkeypatch, tmp_path, wanted, severity):
    monkeypatch.delenv("HDF5_USE_FILE_LOCKING", raising=False)
    if wanted:
        monkeypatch.setenv("HDF5_USE_FILE_LOCKING", wanted)
    hdf5, _, _ = storage.examine(None, tmp_path)
    assert hdf5.severity == severity
    assert ("unset HDF5_USE_FILE_LOCKING" in hdf5.remedy) == (severity == "note")


def test_no_room_for_results(monkeypatch, tmp_path):
    monkeypatch.setattr(storage, "_LITTLE_BYTES", 10**18)
    *_, room = storage.examine(None, tmp_path)
    assert room.severity == "warning"
    monkeypatch.setattr(os, "access", lambda folder, mode: False)
    *_, room = storage.examine(None, tmp_path)
    assert room.severity == "broken"
    assert "--results" in room.remedy
