import zipfile

import numpy as np
import pytest

from lockstep.data.sources import base, npz
from lockstep.errors import UserError


@pytest.fixture
def load(tmp_path, request_for):
    def load(**arrays):
        np.savez(tmp_path / "data.npz", **arrays)
        return npz.load(request_for(tmp_path / "data.npz"))

    return load


X = np.arange(24, dtype=np.int64).reshape(6, 4)
Y = np.array([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    "names", [("x", "y"), ("X", "y"), ("data", "target"), ("images", "labels")]
)
def test_one_pair(load, names):
    source = load(**dict(zip(names, (X, Y), strict=True)))
    assert list(source.parts) == ["all"]
    assert source.dtype == np.uint8
    np.testing.assert_array_equal(source.parts["all"].rows.fetch(np.arange(6)), X)
    np.testing.assert_array_equal(source.parts["all"].labels, Y)
    assert (source.image_form, source.scale, source.feature_shape) == ("none", 1, (4,))


@pytest.mark.parametrize("names", [(), ("x_val", "y_val"), ("x_validation", "y_validation")])
def test_ready_splits(load, names):
    source = load(
        x_train=X, y_train=Y, x_test=X[:3], y_test=Y[:3], **dict(zip(names, (X, Y), strict=False))
    )
    assert set(source.parts) == {"train", "test"} | ({"validation"} if names else set())


@pytest.mark.parametrize(
    ("shape", "form", "stored"),
    [
        ((6, 28, 28), "digit", (28, 28)),
        ((6, 28, 28, 1), "digit", (28, 28)),
        ((6, 5, 4), "image", (5, 4)),
        ((6, 5, 4, 3), "image", (5, 4, 3)),
        ((6, 5, 4, 2), "none", (5, 4, 2)),
        ((6, 784), "none", (784,)),
    ],
)
def test_images_are_recognized(load, shape, form, stored):
    source = load(x=np.zeros(shape, np.uint8), y=Y)
    assert (source.image_form, source.feature_shape) == (form, stored)
    assert source.scale == (1 if form == "none" else 1 / 255)


@pytest.mark.parametrize(
    ("x", "dtype"),
    [
        ([0, 255], np.uint8),
        ([-1, 127], np.int8),
        ([-(2**63), 0], np.int64),
        ([0, 2**16 - 1], np.uint16),
        ([-1, 128], np.int16),
        ([0, 2**32], np.uint64),
        ([False, True], np.uint8),
        ([0.5, 1.0], np.float32),
        ([0.1, 1.0], np.float64),
        ([1e300, 0.0], np.float64),
        (np.array([0.1, 1.0], np.float32), np.float32),
        (np.array([0.1, 1.0], np.float16), np.float16),
    ],
)
def test_the_smallest_type_that_loses_nothing(load, x, dtype):
    x = np.asarray(x).reshape(2, 1)
    source = load(x=x, y=Y[:2])
    assert source.dtype == dtype
    np.testing.assert_array_equal(source.parts["all"].rows.fetch(np.arange(2)), x)


def test_all_splits_get_one_type(load):
    source = load(x_train=X, y_train=Y, x_test=X - 1000, y_test=Y)
    assert source.dtype == np.int16
    assert {part.rows.fetch(np.arange(2)).dtype for part in source.parts.values()} == {
        np.dtype(np.int16)
    }


@pytest.mark.parametrize(
    ("y", "names"),
    [
        (np.array([5, -1, 10, 5, 5, 5]), ("-1", "5", "10")),
        (np.array(["b", "a", "é", "a", "a", "a"]), ("a", "b", "é")),
        (np.array([b"b", b"a", b"a", b"a", b"a", b"a"]), ("a", "b")),
        (np.array([1.0, 2.0, 2.0, 2.0, 2.0, 2.0]), ("1", "2")),
        (np.array([[3], [4], [4], [4], [4], [4]]), ("3", "4")),
        (np.array([True, False, True, True, True, True]), ("0", "1")),
    ],
)
def test_labels_become_sorted_classes(load, y, names):
    source = load(x=X, y=y)
    assert source.class_names == names
    assert source.parts["all"].labels.dtype == np.int32


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": X, "b": Y}, r"data\.npz holds a, b\. It should hold x and y"),
        ({"x_train": X, "y_train": Y}, "holds x_train, y_train"),
        ({"x": X, "y": Y[:-1]}, r"x \(all\) has 6 rows, but y has 5"),
        ({"x": np.zeros(6), "y": Y}, r"x \(all\) has shape \(6,\)"),
        ({"x": np.zeros((0, 2)), "y": Y[:0]}, r"x \(all\) has shape \(0, 2\)"),
        ({"x": X, "y": np.eye(6)}, r"labels have shape \(6, 6\).*argmax"),
        ({"x": X, "y": Y + 0.5}, "labels of type float64 are no classes"),
        ({"x": X + 1j, "y": Y}, "type complex128. Give real numbers"),
        ({"x": X.astype("U2"), "y": Y}, "Give real numbers"),
        ({"x": np.where(X == 9, np.nan, X), "y": Y}, "aren't finite, first in row 2"),
        ({"x": np.where(X == 9, np.inf, X), "y": Y}, "aren't finite, first in row 2"),
        ({"x": X.astype(object), "y": Y}, "no .npz file of plain arrays"),
        (
            {"x_train": X, "y_train": Y, "x_test": X[:, 1:], "y_test": Y},
            r"different shapes: \[\(3,\), \(4,\)\]",
        ),
    ],
)
def test_what_is_wrong_is_said(load, arrays, message):
    with pytest.raises(UserError, match=message) as error:
        load(**arrays)
    assert "data.npz" in str(error.value)


def test_files_that_are_no_npz(tmp_path, request_for):
    path = tmp_path / "data.npz"
    for content in (b"", b"hello", b"PK\x03\x04 and so on"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"data\.npz"):
            npz.load(request_for(path))
    with path.open("wb") as file:
        np.save(file, X)
    with pytest.raises(UserError, match=r"data\.npz holds a single array"):
        npz.load(request_for(path))


def test_an_archive_that_unpacks_to_far_more_than_data_do(tmp_path, request_for, monkeypatch):
    monkeypatch.setattr(base, "_HARMLESS_BYTES", 10**5)
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x=np.zeros((1000, 1000), np.uint8), y=np.arange(1000) % 2)
    with pytest.raises(UserError, match=r"bomb\.npz: x\.npy unpacks from \d+ to 1000128 bytes"):
        npz.load(request_for(path))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_ways_of_compression_that_numpy_does_not_use(tmp_path, request_for, method):
    path = tmp_path / "odd.npz"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("x.npy", b"x" * 100)
    with pytest.raises(UserError, match=r"x\.npy is compressed in an unknown way"):
        npz.load(request_for(path))


def test_members_that_are_no_arrays_or_of_absurd_shape(tmp_path, request_for):
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000000, 4)}\n"
    absurd = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    for number, content in enumerate((b"hello", absurd, b"\x93NUMPY\x01\x00")):
        path = tmp_path / f"odd{number}.npz"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x", content)
            archive.writestr("x.npy", content)
            archive.writestr("y.npy", content)
        with pytest.raises(UserError, match=r"is no \.npz file of plain arrays"):
            npz.load(request_for(path))
