import hashlib

import numpy as np
import pytest
from PIL import Image

from lockstep.data.sources import image_folder
from lockstep.errors import UserError


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def pixels(seed, shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(["cat/b.png", "cat/a.bmp", "dog/z.tiff", "dog/y.webp"]):
        save(tmp_path / "pets" / name, pixels(number, (5, 4, 3)))
    (tmp_path / "pets" / ".hidden").write_text("")
    (tmp_path / "pets" / "cat" / ".DS_Store").write_text("")
    return tmp_path / "pets"


def fetch(source):
    part = source.parts["all"]
    return part.rows.fetch(np.arange(len(part.labels)))


def test_classes_and_pixels(folder, request_for):
    source = image_folder.load(request_for(folder))
    assert source.name == "pets"
    assert source.class_names == ("cat", "dog")
    assert source.parts["all"].labels.tolist() == [0, 0, 1, 1]
    assert (source.feature_shape, source.dtype) == ((5, 4, 3), np.uint8)
    assert (source.scale, source.image_form) == (1 / 255, "image")
    x = fetch(source)
    np.testing.assert_array_equal(x[0], pixels(1, (5, 4, 3)))
    np.testing.assert_array_equal(x[1], pixels(0, (5, 4, 3)))
    reverse = source.parts["all"].rows.fetch(np.array([3, 1]))
    np.testing.assert_array_equal(reverse, x[[3, 1]])


def test_each_class_has_a_digest(folder, request_for):
    source = image_folder.load(request_for(folder))
    lines = "".join(
        f"{hashlib.sha256((folder / 'cat' / name).read_bytes()).hexdigest()}  {name}\n"
        for name in ("a.bmp", "b.png")
    )
    assert [file.name for file in source.files] == ["cat", "dog"]
    assert source.files[0].sha256 == hashlib.sha256(lines.encode()).hexdigest()


def test_numbers_are_sorted_by_value(tmp_path, request_for):
    for name in ("10", "9", "1"):
        save(tmp_path / "n" / name / "a.png", pixels(0, (2, 2)))
    assert image_folder.load(request_for(tmp_path / "n")).class_names == ("1", "9", "10")


def test_gray_if_all_are_gray(tmp_path, request_for):
    save(tmp_path / "g" / "a" / "1.png", pixels(0, (3, 2)))
    save(tmp_path / "g" / "b" / "1.bmp", pixels(1, (3, 2)))
    source = image_folder.load(request_for(tmp_path / "g"))
    assert source.feature_shape == (3, 2)
    np.testing.assert_array_equal(fetch(source)[1], pixels(1, (3, 2)))
    save(tmp_path / "g" / "b" / "2.jpg", pixels(2, (3, 2, 3)))
    assert image_folder.load(request_for(tmp_path / "g")).feature_shape == (3, 2, 3)
    gray = image_folder.load(request_for(tmp_path / "g", color="gray"))
    assert gray.feature_shape == (3, 2)


def test_all_take_the_size_of_the_first(folder, request_for):
    save(folder / "dog" / "x.png", pixels(9, (50, 60, 3)))
    assert fetch(image_folder.load(request_for(folder))).shape == (5, 5, 4, 3)
    source = image_folder.load(request_for(folder, image_size=(7, 8), color="rgb"))
    assert fetch(source).shape == (5, 7, 8, 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cat/notes.txt", r"notes\.txt is no image that can be read"),
        ("notes.txt", r"notes\.txt lies beside the classes' folders"),
        ("cat/kittens/a.png", "kittens is no image"),
    ],
)
def test_what_is_no_image_is_named(folder, request_for, name, message):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("hello")
    with pytest.raises(UserError, match=message):
        image_folder.load(request_for(folder))


def test_an_empty_class_is_named(folder, request_for):
    (folder / "fish").mkdir()
    with pytest.raises(UserError, match=r"fish holds no images"):
        image_folder.load(request_for(folder))
