import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lockstep.data.convert import convert
from lockstep.data.dataset_file import DatasetFile
from lockstep.data.images import read_image
from lockstep.errors import UserError


def stroke():
    """A thick 7, 0 to 255, ink 18 pixels wide and 20 high."""
    ink = np.zeros((20, 18), np.uint8)
    ink[:4] = 255
    for row in range(4, 20):
        left = 13 - (row - 4) // 2
        ink[row, left : left + 4] = 200
    return ink


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def drawing(ink, factor, size, corner, paper=255, pen=0):
    """Put ink on paper, each of its pixels as a square."""
    sheet = np.zeros(size)
    big = np.kron(ink / 255.0, np.ones((factor, factor)))
    sheet[corner[0] : corner[0] + big.shape[0], corner[1] : corner[1] + big.shape[1]] = big
    return np.rint(paper + (pen - paper) * sheet).astype(np.uint8)


def centre_of_mass(frame):
    frame = frame.astype(np.float64)
    return [(np.arange(28) * frame.sum(axis=1 - axis)).sum() / frame.sum() for axis in (0, 1)]


@pytest.mark.parametrize(("paper", "pen"), [(255, 0), (0, 255), (180, 40), (60, 200)])
@pytest.mark.parametrize("factor", [1, 3, 11])
def test_a_drawing_takes_the_form_of_mnist(tmp_path, paper, pen, factor):
    pixels = drawing(stroke(), factor, (60 * factor, 50 * factor), (2 * factor, 31 * factor))
    pixels = drawing(stroke(), factor, pixels.shape, (2 * factor, 31 * factor), paper, pen)
    frame = read_image(save(tmp_path / "7.png", pixels), (28, 28), "digit")
    assert frame.dtype == np.uint8
    assert frame.max() == 255
    rows, columns = (np.flatnonzero(frame.any(axis=axis)) for axis in (1, 0))
    assert rows[-1] - rows[0] + 1 == 20
    assert columns[-1] - columns[0] + 1 == 18
    np.testing.assert_allclose(
        frame[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], stroke(), atol=3
    )
    np.testing.assert_allclose(centre_of_mass(frame), 14, atol=0.51)


@pytest.mark.mnist
def test_digits_of_mnist_come_back(tmp_path, mnist_folder):
    convert(str(mnist_folder), tmp_path / "mnist.h5")
    with DatasetFile.open(tmp_path / "mnist.h5") as file:
        digits = file.read("test", 0, 30)[0].reshape(-1, 28, 28)
    for number, digit in enumerate(digits):
        pixels = drawing(digit, 3, (200, 170), (90, 4 + 2 * number))
        frame = read_image(save(tmp_path / "digit.png", pixels), (28, 28), "digit")
        assert abs(frame.astype(float) - digit).mean() < 1


def test_a_digit_of_scikit_learn_comes_back(tmp_path, read_all):
    convert("digits", tmp_path / "digits.h5")
    x, _ = read_all(tmp_path / "digits.h5", "test")
    differences = []
    for digit in x[:20]:
        pixels = drawing(digit * (255 / 16), 9, (150, 130), (60, 20))
        frame = read_image(save(tmp_path / "d.png", pixels), (8, 8), "digit", max_value=16)
        assert frame.max() == 16
        differences.append(abs(frame.astype(float) - digit).mean())
    assert np.median(differences) < 0.2


@pytest.mark.parametrize("pen", [0, 255])
def test_transparent_paper(tmp_path, pen):
    alpha = drawing(stroke(), 3, (90, 90), (10, 10), 0, 255)
    pixels = np.dstack([np.full((90, 90, 3), pen, np.uint8), alpha])
    frame = read_image(save(tmp_path / "7.png", pixels), (28, 28), "digit")
    assert (frame > 0).sum() == (stroke() > 0).sum()


def test_noise_on_the_paper_is_not_ink(tmp_path):
    pixels = drawing(stroke(), 8, (500, 400), (200, 100), 220, 30)
    noise = np.random.default_rng(0).integers(-6, 7, pixels.shape)
    path = save(tmp_path / "7.jpg", (pixels + noise).astype(np.uint8), quality=90)
    frame = read_image(path, (28, 28), "digit")
    assert frame[:3].max() <= 12
    np.testing.assert_allclose(centre_of_mass(frame), 14, atol=1)


def test_a_line_stays_in_the_frame(tmp_path):
    pixels = np.full((100, 100), 255, np.uint8)
    pixels[10:90, 50:52] = 0
    frame = read_image(save(tmp_path / "1.png", pixels), (28, 28), "digit")
    assert np.flatnonzero(frame.any(axis=1)).tolist() == list(range(4, 24))


@pytest.mark.parametrize("value", [0, 128, 255])
def test_an_empty_sheet(tmp_path, value):
    path = save(tmp_path / "empty.png", np.full((50, 50), value, np.uint8))
    with pytest.raises(UserError, match=r"empty\.png shows nothing but an empty sheet"):
        read_image(path, (28, 28), "digit")


def test_plain_images_are_resized_only(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    path = save(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(read_image(path, (6, 4, 3), "image"), pixels)
    assert read_image(path, (3, 2, 3), "image").shape == (3, 2, 3)
    gray = read_image(path, (6, 4), "image")
    np.testing.assert_array_equal(gray, np.asarray(Image.fromarray(pixels).convert("L")))


def test_sixteen_bits_are_scaled(tmp_path):
    path = save(tmp_path / "a.png", np.array([[0, 256, 65535]], np.uint16))
    np.testing.assert_array_equal(read_image(path, (1, 3), "image"), [[0, 1, 255]])


def test_pixels_without_a_scale_are_refused(tmp_path):
    path = save(tmp_path / "a.tiff", np.zeros((2, 2), np.float32))
    with pytest.raises(UserError, match=r"a\.tiff has pixels of type F"):
        read_image(path, (2, 2), "image")


def test_exif_orientation_is_heeded(tmp_path):
    pixels = np.zeros((4, 6), np.uint8)
    pixels[:, 3:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "a.png", pixels, exif=exif)
    turned = read_image(path, (6, 4), "image")
    np.testing.assert_array_equal(turned, np.rot90(pixels, -1))


def test_tables_take_no_images(tmp_path):
    with pytest.raises(UserError, match=r"a\.png for this data set: .*\(4,\) are no images"):
        read_image(tmp_path / "a.png", (4,), "none")


def png_header(width, height):
    def chunk(name, content):
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 60_000])
@pytest.mark.parametrize("image_form", ["digit", "image"])
def test_decompression_bombs_are_refused(tmp_path, side, image_form):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(side, side))
    with pytest.raises(UserError, match=r"bomb\.png has more than \d+ pixels"):
        read_image(path, (28, 28), image_form)


def test_files_that_are_no_images(tmp_path):
    path = tmp_path / "a.png"
    with pytest.raises(UserError, match=r"a\.png: No such file"):
        read_image(path, (2, 2), "image")
    path.write_text("hello")
    with pytest.raises(UserError, match=r"a\.png is no image that can be read"):
        read_image(path, (2, 2), "image")


def test_an_image_that_was_cut_off(tmp_path):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (60, 60), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "png")
    path = tmp_path / "a.png"
    path.write_bytes(buffer.getvalue()[:1500])
    with pytest.raises(UserError, match=r"Can't read the image .*a\.png"):
        read_image(path, (60, 60), "image")
