import gzip
import os
import pickle
import resource
import struct

import numpy as np
import pytest

from lockstep.data.sources import base, pickled
from lockstep.errors import UserError


def contents(images=None):
    images = np.arange(256, dtype=np.uint8).reshape(16, 16) if images is None else images
    x = images / np.float32(256)
    y = np.arange(len(x)) % 2
    return (x[:8], y[:8]), (x[8:12], y[8:12]), (x[12:], y[12:])


def write(path, content, protocol=2):
    data = content if isinstance(content, bytes) else pickle.dumps(content, protocol)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("name", ["mnist.pkl", "mnist.pkl.gz"])
def test_the_bytes_come_back(tmp_path, request_for, name, protocol):
    source = pickled.load(request_for(write(tmp_path / name, contents(), protocol)))
    assert list(source.parts) == ["train", "validation", "test"]
    fetched = [part.rows.fetch(np.arange(len(part.labels))) for part in source.parts.values()]
    merged = np.concatenate(fetched)
    assert merged.dtype == np.uint8
    np.testing.assert_array_equal(merged, np.arange(256).reshape(16, 4, 4))
    np.testing.assert_array_equal(source.parts["validation"].labels, [0, 1, 0, 1])
    assert (source.name, source.feature_shape, source.scale) == ("mnist", (4, 4), 1 / 255)


def python_2_array(array):
    """Pickle an array as NumPy did under Python 2: the bytes are a str (BINSTRING)."""
    code = array.dtype.str[1:].encode()
    raw = array.tobytes()
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        b"(K\x01(" + b"".join(b"K" + bytes([n]) for n in array.shape) + b"t"
        b"cnumpy\ndtype\n(U" + bytes([len(code)]) + code + b"K\x00K\x01tR"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"
    )


def test_a_pickle_of_python_2(tmp_path, request_for):
    images = np.arange(0, 256, 16, dtype=np.float32).reshape(4, 4) / 256
    pair = b"(" + python_2_array(images) + python_2_array(np.array([0, 1, 1, 0])) + b"t"
    path = write(tmp_path / "mnist.pkl.gz", b"\x80\x02(" + pair * 3 + b"t.")
    part = pickled.load(request_for(path)).parts["test"]
    np.testing.assert_array_equal(part.rows.fetch(np.arange(4)).ravel(), np.arange(0, 256, 16) // 1)
    np.testing.assert_array_equal(part.labels, [0, 1, 1, 0])


def test_column_major_arrays(tmp_path, request_for):
    (x, y), validation, test = contents()
    path = write(tmp_path / "mnist.pkl", ((np.asfortranarray(x), y), validation, test))
    fetched = pickled.load(request_for(path)).parts["train"].rows.fetch(np.arange(8))
    np.testing.assert_array_equal(fetched.ravel(), np.arange(128))


class RunsACommand:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_runs_a_command_is_refused(tmp_path, request_for, protocol):
    trace = tmp_path / "trace"
    path = write(tmp_path / "mnist.pkl", (contents(), RunsACommand(trace)), protocol)
    with pytest.raises(UserError, match=r"mnist\.pkl is refused: it asks for .*system"):
        pickled.load(request_for(path))
    assert not trace.exists()


@pytest.mark.parametrize(
    "name",
    [
        b"builtins\neval",
        b"numpy\nload",
        b"numpy.lib.npyio\nload",
        b"numpy\nndarray.__class__",
        b"_codecs\ndecode",
        b"numpy.core.multiarray\nscalar",
        b"copyreg\n_reconstructor",
    ],
)
def test_no_other_name_is_looked_up(tmp_path, request_for, name):
    path = write(tmp_path / "mnist.pkl", b"\x80\x02c" + name + b"\n.")
    with pytest.raises(UserError, match=r"mnist\.pkl is refused: it asks for"):
        pickled.load(request_for(path))


@pytest.mark.parametrize(
    ("array", "what"),
    [
        (np.array([print, None], dtype=object), "'O8'"),
        (np.zeros(2, "M8[s]"), "'M8'"),
        (np.zeros(2, [("a", "f4")]), "'V4'"),
        (np.array(["a"]), "'U1'"),
    ],
)
def test_arrays_of_anything_but_numbers_are_refused(tmp_path, request_for, array, what):
    if array.dtype == object:
        array[0] = 1
    path = write(tmp_path / "mnist.pkl", ((array, array),) * 3)
    with pytest.raises(UserError, match=rf"refused: it holds an array of type {what}"):
        pickled.load(request_for(path))


def test_an_array_with_too_few_bytes_is_refused(tmp_path, request_for):
    data = pickle.dumps(np.zeros((3, 4), np.uint8), 2)
    assert b"K\x03K\x04" in data
    path = write(tmp_path / "mnist.pkl", data.replace(b"K\x03K\x04", b"K\x7fK\x04"))
    with pytest.raises(UserError, match="too few or too many bytes"):
        pickled.load(request_for(path))


def test_functions_cannot_be_changed(tmp_path, request_for):
    # (None, {"__defaults__": (1,)}) is set as the state of what builds arrays.
    change = b"N}X\x0c\x00\x00\x00__defaults__K\x01\x85s\x86b"
    path = write(
        tmp_path / "mnist.pkl", b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n" + change + b"."
    )
    with pytest.raises(UserError, match="refused: it changes something that is no array"):
        pickled.load(request_for(path))


def test_a_few_bytes_do_not_fill_the_memory(tmp_path, request_for):
    # LONG_BINPUT to place 2**31 - 1 of the memo.
    path = write(tmp_path / "mnist.pkl", b"\x80\x02K\x01r\xff\xff\xff\x7f.")
    with pytest.raises(UserError, match="should hold three pairs"):
        pickled.load(request_for(path))
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert peak_kb < 4_000_000


@pytest.mark.parametrize(
    "shape",
    [
        # -3 and -4, whose product is right; 12 and "a"; 2**80 and 0.
        b"J\xfd\xff\xff\xffJ\xfc\xff\xff\xff",
        b"K\x0cX\x01\x00\x00\x00a",
        b"\x8a\x0b" + bytes(10) + b"\x01K\x00",
    ],
)
def test_an_absurd_shape(tmp_path, request_for, shape):
    data = pickle.dumps(np.zeros((3, 4), np.uint8), 2)
    path = write(tmp_path / "mnist.pkl", data.replace(b"K\x03K\x04", shape))
    with pytest.raises(UserError, match="refused: it holds an array without a shape"):
        pickled.load(request_for(path))


def test_what_unpacks_to_far_more_than_data_do(tmp_path, request_for, monkeypatch):
    monkeypatch.setattr(base, "_HARMLESS_BYTES", 10**6)
    path = write(tmp_path / "mnist.pkl.gz", b"\x80\x04B" + struct.pack("<I", 10**8) + bytes(10**7))
    with pytest.raises(UserError, match=r"mnist\.pkl\.gz unpacks to more than 100 times its size"):
        pickled.load(request_for(path))


def test_images_of_another_type(tmp_path, request_for):
    images = np.zeros((4, 16), np.uint8)
    path = write(tmp_path / "mnist.pkl", ((images, np.arange(4)),) * 3)
    with pytest.raises(UserError, match="train images have type uint8, not float32"):
        pickled.load(request_for(path))


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02(K\x01", b"\x80\x02K\x01R."])
def test_what_is_no_pickle(tmp_path, request_for, content):
    with pytest.raises(UserError, match=r"mnist\.pkl is (no pickle|refused)"):
        pickled.load(request_for(write(tmp_path / "mnist.pkl", content)))


def test_a_compressed_file_that_was_cut_off(tmp_path, request_for):
    path = write(tmp_path / "mnist.pkl.gz", contents())
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"mnist\.pkl\.gz"):
        pickled.load(request_for(path))


@pytest.mark.parametrize("content", [3, (1, 2), contents()[:2], ((1, 2),) * 3, (contents(),) * 3])
def test_another_structure(tmp_path, request_for, content):
    with pytest.raises(UserError, match=r"mnist\.pkl should hold three pairs"):
        pickled.load(request_for(write(tmp_path / "mnist.pkl", content)))


@pytest.mark.parametrize("value", [1.0, 0.001, -1 / 256, np.nan])
def test_pixels_that_were_no_bytes(tmp_path, request_for, value):
    train, (x, y), test = contents()
    x[2, 3] = value
    path = write(tmp_path / "mnist.pkl", (train, (x, y), test))
    with pytest.raises(UserError, match=r"validation images have pixels .* first in row 2"):
        pickled.load(request_for(path))


def test_images_that_are_not_square(tmp_path, request_for):
    path = write(tmp_path / "mnist.pkl", contents(np.zeros((16, 15), np.uint8)))
    with pytest.raises(UserError, match=r"train images have shape \(8, 15\)"):
        pickled.load(request_for(path))


def test_images_and_labels_of_different_lengths(tmp_path, request_for):
    train, validation, (x, y) = contents()
    path = write(tmp_path / "mnist.pkl", (train, validation, (x, y[:-1])))
    with pytest.raises(UserError, match="test part has 4 images and 3 labels"):
        pickled.load(request_for(path))
