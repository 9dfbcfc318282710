import errno
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest

from lockstep.data import dataset_file
from lockstep.data.dataset_file import DatasetFile
from lockstep.data.dataset_writer import Header, create_dataset_file
from lockstep.errors import UserError

SIZES = {"train": 7, "validation": 3, "test": 0}


def arrays(split):
    size = SIZES[split]
    x = np.arange(size * 6, dtype=np.uint8).reshape(size, 2, 3) + len(split)
    return x, (np.arange(size) % 2).astype(np.int32)


def write(path, scale=0.5, offset=0.0, dtype=np.uint8, chunk_rows=4):
    header = Header(
        name="small",
        class_names=("no", "ja, später"),
        feature_shape=(2, 3),
        dtype=np.dtype(dtype),
        image_form="none",
        white=1,
        source="small.npz",
        source_files=("small.npz",),
        source_sha256=("ab" * 32,),
        shuffle_seed=2**64 - 1,
        chunk_rows=chunk_rows,
    )
    with create_dataset_file(path, header) as writer:
        for split in SIZES:
            x, y = arrays(split)
            x = x.astype(dtype)
            writer.write_split(split, (x[i : i + 2] for i in range(0, len(x), 2)), y)
        writer.finish(scale, offset)
    return path


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "small.h5")


def test_what_was_written_is_read(path):
    with DatasetFile.open(path) as file:
        info = file.info
        assert info.name == "small"
        assert info.class_names == ("no", "ja, später")
        assert info.feature_shape == (2, 3)
        assert (info.num_features, info.num_classes) == (6, 2)
        assert (info.scale, info.offset) == (0.5, 0.0)
        assert (info.image_form, info.source) == ("none", "small.npz")
        assert (info.source_files, info.source_sha256) == (("small.npz",), ("ab" * 32,))
        assert info.shuffle_seed == 2**64 - 1
        assert info.num_samples == SIZES
        assert info.dtype == np.uint8
        x, y = file.read("train", 2, 5)
        assert (x.dtype, y.dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(x, arrays("train")[0][2:5].reshape(3, 6))
        np.testing.assert_array_equal(y, arrays("train")[1][2:5])
        np.testing.assert_array_equal(file.class_counts("train"), [4, 3])
        np.testing.assert_array_equal(file.class_counts("test"), [0, 0])
        file.verify()


def test_rows_that_are_not_there_are_refused(path):
    with DatasetFile.open(path) as file:
        for start, stop in ((0, 8), (-1, 2), (3, 2)):
            with pytest.raises(IndexError, match="train"):
                file.read("train", start, stop)


def test_plain_h5py_sees_the_layout(path):
    with h5py.File(path) as file:
        assert file.attrs["format"] == "lockstep-dataset"
        assert file.attrs["format_version"] == 1
        assert file["train/x"].chunks == (4, 2, 3)
        assert file["train/x"].compression is None
        assert file["train/y"].dtype == np.int32


@pytest.mark.skipif(not shutil.which("h5dump"), reason="needs h5dump")
def test_h5dump_reads_it(path):
    subprocess.run(["h5dump", path], check=True, capture_output=True)


def test_chunks_are_about_a_megabyte(tmp_path):
    with h5py.File(write(tmp_path / "d.h5", chunk_rows=None)) as file:
        assert file["train/x"].chunks == (7, 2, 3)
    header = Header("", (), (28, 28), np.dtype(np.uint8), "none", 1, "", (), (), 0)
    assert header.chunks(60_000) == (2**20 // 784, 28, 28)


def test_the_digest_is_the_documented_one(path):
    digest = hashlib.sha256()
    for split, shape in (("train", "7x2x3"), ("validation", "3x2x3"), ("test", "0x2x3")):
        x, y = arrays(split)
        digest.update(f"{split}/x uint8 {shape}\n".encode() + x.tobytes())
        digest.update(f"{split}/y int32 {len(y)}\n".encode() + y.astype("<i4").tobytes())
    with DatasetFile.open(path) as file:
        assert file.info.content_sha256 == digest.hexdigest()


def test_the_digest_depends_on_type_but_not_on_chunks_or_scale(tmp_path):
    def digest(**options):
        with DatasetFile.open(write(tmp_path / "d.h5", **options)) as file:
            file.verify()
            return file.info.content_sha256

    assert digest() == digest(chunk_rows=1, scale=3.0)
    assert digest() != digest(dtype=np.uint16)


def test_equal_content_gives_equal_bytes(tmp_path):
    one, two = write(tmp_path / "1.h5"), write(tmp_path / "2.h5")
    assert one.read_bytes() == two.read_bytes()


def test_scaling_by_feature(tmp_path):
    scale = np.arange(6.0).reshape(2, 3)
    with DatasetFile.open(write(tmp_path / "d.h5", scale, -scale)) as file:
        np.testing.assert_array_equal(file.info.scale, scale)
        np.testing.assert_array_equal(file.info.offset, -scale)


def test_attributes_may_be_large(tmp_path):
    header = Header(
        name="wide",
        class_names=tuple(map(str, range(6000))),
        feature_shape=(20_000,),
        dtype=np.dtype(np.uint8),
        image_form="none",
        white=1,
        source="",
        source_files=(),
        source_sha256=(),
        shuffle_seed=0,
    )
    path = tmp_path / "wide.h5"
    with create_dataset_file(path, header) as writer:
        for split in SIZES:
            writer.write_split(split, [np.zeros((1, 20_000), np.uint8)], np.zeros(1, np.int32))
        writer.finish(np.ones(20_000), np.zeros(20_000))
    with DatasetFile.open(path) as file:
        assert file.info.scale.shape == (20_000,)
        assert file.info.num_classes == 6000
        assert file.info.source_files == ()


def test_a_changed_sample_is_found(path):
    with h5py.File(path, "r+") as file:
        file["validation/x"][1, 0, 0] += 1
    with DatasetFile.open(path) as file, pytest.raises(UserError, match="SHA-256") as error:
        file.verify()
    assert str(path) in str(error.value)


def test_a_label_beyond_the_classes_is_found(path):
    with h5py.File(path, "r+") as file:
        file["train/y"][0] = 2
    with pytest.raises(UserError, match=r"train/y has the label 2 in row 0 .* go from 0 to 1"):
        DatasetFile.open(path)


def delete(name):
    def change(file):
        del file[name]

    return change


def replace(name, data):
    def change(file):
        del file[name]
        file[name] = data

    return change


def attribute(name, value):
    def change(file):
        file.attrs[name] = value

    return change


def without(name):
    def change(file):
        del file.attrs[name]

    return change


def virtual(file):
    layout = h5py.VirtualLayout((7, 2, 3), np.uint8)
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", (7, 2, 3))
    del file["train/x"]
    file.create_virtual_dataset("train/x", layout)


def filtered(number):
    def change(file):
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((7, 2, 3))
        plan.set_filter(number, h5py.h5z.FLAG_OPTIONAL, (1,))
        del file["train/x"]
        space = h5py.h5s.create_simple((7, 2, 3))
        h5py.h5d.create(file["train"].id, b"x", h5py.h5t.STD_U8LE, space, plan)

    return change


def huge(num_rows, **storage):
    def change(file):
        del file["test"]
        file.create_dataset("test/x", (num_rows, 2, 3), "u1", chunks=(10**6, 2, 3), **storage)
        file.create_dataset("test/y", (num_rows,), "i4", chunks=(10**6,))

    return change


def external(file):
    del file["train/x"]
    file["train"].create_dataset("x", (7, 2, 3), np.uint8, external=[("raw.bin", 0, 42)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (delete("validation"), "has no validation/x"),
        (delete("test/y"), "has no test/y"),
        (replace("train", 3), "has no train/x"),
        (replace("train/y", np.zeros(6, np.int32)), r"train/x has shape \(7, 2, 3\)"),
        (replace("train/y", np.zeros(7)), "train/y is float64"),
        (replace("train/x", np.zeros((7, 6), np.uint8)), r"train/x has shape \(7, 6\)"),
        (replace("train/x", np.zeros((7, 2, 3), "S1")), "train/x has type"),
        (replace("train/x", np.zeros((7, 2, 3), np.int16)), "different types"),
        (replace("train/x", h5py.ExternalLink("elsewhere.h5", "x")), "train/x is a link"),
        (replace("train/x", h5py.SoftLink("/validation/x")), "train/x is a link"),
        (virtual, "train/x lies in other files"),
        (external, "train/x lies in other files"),
        (attribute("format", "other"), "not one that `lockstep convert` made"),
        (without("format"), "not one that `lockstep convert` made"),
        (attribute("format_version", 2), "install a newer Lockstep"),
        (attribute("format_version", 0), "format_version is 0"),
        (attribute("format_version", "1"), "format_version should be an integer"),
        (without("scale"), "no attribute scale"),
        (attribute("scale", [1.0, 2.0]), "scale should be a number, or one for each"),
        (attribute("offset", np.nan), "offset should be finite"),
        (attribute("class_names", 3), "class_names should be a list of texts"),
        (attribute("name", 3), "name should be a text"),
        (attribute("feature_shape", [2, 0]), "feature_shape should be"),
        (attribute("image_form", "sound"), "image_form is 'sound'"),
        (attribute("source_sha256", np.array([], dtype="S1")), "differ in length"),
        (replace("train/x", np.zeros((7, 2, 3), "g")), "train/x has type"),
        (huge(10**15), "test/x of shape .* takes 6000000000000000 bytes, more than"),
        (huge(10**8, compression="gzip"), "test/x of shape .* takes 600000000 bytes, more than"),
        (attribute("format", ["lockstep-dataset"] * 2), "not one that `lockstep convert` made"),
        (attribute("name", h5py.Empty("S3")), "name should be numbers or texts"),
        (attribute("name", "../up"), "name is '../up'"),
        (attribute("name", b"\xff"), "name should be a text"),
        (attribute("class_names", [b"a", b"\xff"]), "class_names should be a list of texts"),
        (attribute("white", 256), "white is 256"),
        (attribute("scale", np.longdouble("1e400")), "scale should be finite"),
    ],
)
def test_what_is_wrong_is_said_when_opening(path, change, message):
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(UserError, match=message) as error:
        DatasetFile.open(path)
    assert str(path) in str(error.value)
    assert re.search(r"lockstep convert|Lockstep", str(error.value))


@pytest.mark.parametrize("number", [32000, 32015, h5py.h5z.FILTER_NBIT])
def test_filters_that_need_a_plugin_are_not_even_tried(path, number):
    with h5py.File(path, "r+") as file:
        filtered(number)(file)
    with pytest.raises(UserError, match=rf"train/x .* \(number {number}\).*h5repack -f NONE"):
        DatasetFile.open(path)


def test_references_are_not_read(path):
    with h5py.File(path, "r+") as file:
        file.attrs["source"] = file["train/x"].regionref[0:2]
    with pytest.raises(UserError, match="source should be numbers or texts"):
        DatasetFile.open(path)


def test_a_link_to_another_file_is_not_followed(path):
    # Whoever opens a pipe waits for ever.
    os.mkfifo(path.with_name("pipe"))
    with h5py.File(path, "r+") as file:
        del file["train"]
        file["train"] = h5py.ExternalLink("pipe", "/train")
    with pytest.raises(UserError, match="train/x is a link"):
        DatasetFile.open(path)


def test_what_others_have_stored_compressed_or_big_endian_is_read(path):
    with h5py.File(path, "r+") as file:
        for split in SIZES:
            x, y = arrays(split)
            del file[split]
            options = {"chunks": (max(1, len(x)), 2, 3), "maxshape": (None, 2, 3)}
            file.create_dataset(
                f"{split}/x", data=x.astype(">i4"), compression="gzip", shuffle=True, **options
            )
            file[f"{split}/y"] = y
    with DatasetFile.open(path) as file:
        np.testing.assert_array_equal(file.read("train", 0, 7)[0], arrays("train")[0].reshape(7, 6))
        np.testing.assert_array_equal(file.class_counts("train"), [4, 3])


def test_a_file_that_is_cut_off_while_it_is_read(path):
    with DatasetFile.open(path) as file:
        file.read("train", 0, 7)
        os.truncate(path, path.stat().st_size - 1)
        with pytest.raises(UserError, match=r"small\.h5 is damaged: it was cut off while"):
            file.read("train", 0, 7)


def test_a_file_that_is_removed_while_it_is_read_is_read_to_its_end(path):
    with DatasetFile.open(path) as file:
        path.unlink()
        file.read("train", 0, 7)
        file.verify()


@pytest.mark.parametrize(
    ("class_names", "message"),
    [(["a", "b", "c"], r"small\.h5: class 'c' has no training row"), (["a", "b"], "")],
)
def test_classes_without_training_rows(path, class_names, message):
    with h5py.File(path, "r+") as file:
        file.attrs["class_names"] = class_names
    with DatasetFile.open(path) as file:
        if not message:
            file.check_training_classes()
            return
        with pytest.raises(UserError, match=message):
            file.check_training_classes()


def test_a_single_class(path):
    with h5py.File(path, "r+") as file:
        file.attrs["class_names"] = ["a"]
        for split in SIZES:
            file[f"{split}/y"][...] = 0
    with (
        DatasetFile.open(path) as file,
        pytest.raises(UserError, match="has one class only: there is nothing to tell apart"),
    ):
        file.check_training_classes()


def test_files_of_other_kinds(tmp_path):
    missing = tmp_path / "missing.h5"
    with pytest.raises(UserError, match=r"missing\.h5 doesn't exist.*lockstep convert"):
        DatasetFile.open(missing)
    with pytest.raises(UserError, match="is no file"):
        DatasetFile.open(tmp_path)
    text = tmp_path / "text.h5"
    text.write_text("hello")
    with pytest.raises(UserError, match=r"text\.h5 is no HDF5 file"):
        DatasetFile.open(text)


def test_a_file_that_was_cut_off(path):
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"small\.h5 is damaged"):
        DatasetFile.open(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(path):
    path.chmod(0)
    with pytest.raises(UserError, match=r"Can't read .*small\.h5"):
        DatasetFile.open(path)


def test_a_reader_needs_no_write_permission_and_no_lock(path):
    path.chmod(0o444)
    with path.open("rb") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        with DatasetFile.open(path) as file:
            file.verify()


OPEN = """
import sys
from pathlib import Path
from lockstep.data.dataset_file import DatasetFile
from lockstep.errors import UserError
try:
    with DatasetFile.open(Path(sys.argv[1])) as file:
        file.verify()
except UserError as error:
    print(error)
"""


def opened(path, *before, **environment):
    """Open the file in a process of its own, for the library reads the environment only once."""
    command = [*before, sys.executable, "-c", OPEN, path]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return done.stdout


@pytest.mark.parametrize("asked_for", ["TRUE", "BEST_EFFORT"])
def test_a_lock_that_the_environment_asks_for_and_nobody_else_has_does_no_harm(path, asked_for):
    assert opened(path, HDF5_USE_FILE_LOCKING=asked_for) == ""


@pytest.mark.parametrize("asked_for", ["TRUE", "BEST_EFFORT"])
def test_a_lock_that_the_environment_asks_for_in_vain_is_explained(path, asked_for):
    with path.open("rb") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        assert opened(path, HDF5_USE_FILE_LOCKING="FALSE") == ""
        told = opened(path, HDF5_USE_FILE_LOCKING=asked_for)
    assert told == (
        f"HDF5 can't lock {path}: Resource temporarily unavailable. Lockstep needs no lock, but "
        f"HDF5_USE_FILE_LOCKING is {asked_for} in the environment. Unset it, or: export "
        "HDF5_USE_FILE_LOCKING=FALSE\n"
    )


def without_locks(code):
    """Return what runs a command as on a file system that knows no locks."""
    if not shutil.which("strace"):
        pytest.skip("needs strace")
    return [
        "strace",
        "-f",
        "-o",
        os.devnull,
        "-e",
        "trace=flock",
        "-e",
        f"inject=flock:error={code}",
    ]


@pytest.mark.parametrize("code", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_a_file_system_that_knows_no_locks(path, code):
    assert opened(path, *without_locks(code), HDF5_USE_FILE_LOCKING="") == ""
    told = opened(path, *without_locks(code), HDF5_USE_FILE_LOCKING="TRUE")
    assert told.startswith(f"HDF5 can't lock {path}: {os.strerror(getattr(errno, code))}. ")
    assert told.endswith("HDF5_USE_FILE_LOCKING=FALSE\n")


def test_a_library_that_must_be_told_by_the_environment(path, monkeypatch):
    monkeypatch.setattr(dataset_file, "UNLOCKED", {})
    # What is there in the end is what was there before.
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "TRUE")
    DatasetFile.open(path).close()
    assert os.environ["HDF5_USE_FILE_LOCKING"] == "TRUE"
    del os.environ["HDF5_USE_FILE_LOCKING"]
    DatasetFile.open(path).close()
    assert os.environ["HDF5_USE_FILE_LOCKING"] == "FALSE"


def test_nothing_appears_when_writing_fails(tmp_path):
    def blocks():
        yield np.zeros((1, 2, 3), np.uint8)
        raise RuntimeError("broken")

    header = Header("", ("a",), (2, 3), np.dtype(np.uint8), "none", 1, "", (), (), 0)
    with (
        pytest.raises(RuntimeError, match="broken"),
        create_dataset_file(tmp_path / "d.h5", header) as writer,
    ):
        writer.write_split("train", blocks(), np.zeros(2, np.int32))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_the_users_business(tmp_path, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset_file.h5py, "File", full)
    with pytest.raises(UserError, match=r"Can't write .*small\.h5: .*No space left"):
        write(tmp_path / "small.h5")
    assert list(tmp_path.iterdir()) == []


def test_too_few_samples_for_the_labels_are_a_mistake(tmp_path):
    header = Header("", ("a",), (2, 3), np.dtype(np.uint8), "none", 1, "", (), (), 0)
    with (
        pytest.raises(ValueError, match="2 labels, but 1 samples"),
        create_dataset_file(tmp_path / "d.h5", header) as writer,
    ):
        writer.write_split("train", [np.zeros((1, 2, 3), np.uint8)], np.zeros(2, np.int32))
