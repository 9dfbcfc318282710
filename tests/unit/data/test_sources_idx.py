import gzip

import numpy as np
import pytest

from lockstep.data.sources import idx
from lockstep.errors import UserError

IMAGES = "train-images-idx3-ubyte"
LABELS = "train-labels-idx1-ubyte"


def test_the_four_files_are_read(idx_folder, small_mnist, request_for):
    source = idx.load(request_for(idx_folder))
    images, labels, test_images, test_labels = small_mnist
    assert list(source.parts) == ["train", "test"]
    everything = np.arange(60)
    np.testing.assert_array_equal(source.parts["train"].rows.fetch(everything), images)
    np.testing.assert_array_equal(source.parts["train"].labels, labels)
    np.testing.assert_array_equal(source.parts["test"].rows.fetch(np.arange(12)), test_images)
    np.testing.assert_array_equal(source.parts["test"].labels, test_labels)
    assert source.class_names == ("0", "1", "2")
    assert (source.scale, source.image_form) == (1 / 255, "digit")
    assert [file.name for file in source.files] == list(idx.FILES)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dot", [False, True])
def test_other_spellings(idx_folder, request_for, compressed, dot):
    for name in idx.FILES:
        path = idx_folder / name
        content = path.read_bytes()
        path.unlink()
        spelling = name.replace("-idx", ".idx") if dot else name
        if compressed:
            (idx_folder / f"{spelling}.gz").write_bytes(gzip.compress(content))
        else:
            (idx_folder / spelling).write_bytes(content)
    assert len(idx.load(request_for(idx_folder)).parts["train"].labels) == 60


def change(path, start, content):
    data = bytearray(path.read_bytes())
    data[start : start + len(content)] = content
    path.write_bytes(data)


def test_a_missing_file_is_named(idx_folder, request_for):
    (idx_folder / LABELS).unlink()
    with pytest.raises(UserError, match=rf"idx lacks {LABELS}.*{IMAGES}"):
        idx.load(request_for(idx_folder))


@pytest.mark.parametrize(
    ("name", "start", "content", "message"),
    [
        (IMAGES, 0, b"\0\0\x08\x01", "no IDX file of images: it starts with 00 00 08 01"),
        (LABELS, 0, b"\0\0\x0d\x01", "no IDX file of labels: it starts with 00 00 0d 01"),
        (IMAGES, 4, b"\0\0\0\x3d", "is damaged: it holds 960 bytes of data, and 61x4x4 are 976"),
        (IMAGES, 4, b"\0\0\0\0", "is empty: its dimensions are 0x4x4"),
        (LABELS, 4, b"\xff\xff\xff\xff", "is damaged: it holds 60 bytes"),
    ],
)
def test_a_damaged_file_is_named(idx_folder, request_for, name, start, content, message):
    change(idx_folder / name, start, content)
    with pytest.raises(UserError, match=rf"{name} .*{message}"):
        idx.load(request_for(idx_folder))


def test_a_file_that_was_cut_off(idx_folder, request_for):
    (idx_folder / IMAGES).write_bytes(b"\0\0\x08\x03\0\0")
    with pytest.raises(UserError, match=rf"{IMAGES} is damaged: its header is cut off"):
        idx.load(request_for(idx_folder))


def test_a_compressed_file_that_was_cut_off(idx_folder, request_for):
    path = idx_folder / IMAGES
    path.write_bytes(gzip.compress(path.read_bytes())[:-20])
    with pytest.raises(UserError, match=rf"Can't read .*{IMAGES}"):
        idx.load(request_for(idx_folder))


def test_more_images_than_labels(idx_folder, request_for):
    (idx_folder / LABELS).write_bytes((idx_folder / "t10k-labels-idx1-ubyte").read_bytes())
    with pytest.raises(UserError, match=rf"{IMAGES} holds 60 images, but .*{LABELS} 12 labels"):
        idx.load(request_for(idx_folder))


def test_test_images_of_another_size(idx_folder, request_for):
    change(idx_folder / "t10k-images-idx3-ubyte", 8, b"\0\0\0\x02\0\0\0\x08")
    with pytest.raises(UserError, match="t10k-images-idx3-ubyte has images of 2x8 pixels"):
        idx.load(request_for(idx_folder))
