"""`lockstep inspect --preview --augment`, as a user runs it."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def config(program):
    def write(text, name="augment.toml"):
        (program.folder / name).write_text(text)
        return name

    return write


def sheet(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def test_samples_are_drawn_beside_augmented_ones(program, digits_file, config):
    file = config("[augmentation]\nrotation = 20\nshift = 1\n[network]\nhidden_widths = [3]\n")
    told = program("inspect", digits_file, "--preview", "a.png", "--augment", file)
    assert told.returncode == 0, told.stderr
    last_line = told.stdout.splitlines()[-1]
    assert last_line == "Drew 8 samples, each with 7 augmented versions: a.png"
    picture = sheet(program.folder / "a.png")
    assert picture.shape[0] > 1000
    assert picture.shape[1] > 1000
    # Another seed gives other versions, and the same one the same picture.
    config("[augmentation]\nrotation = 20\nshift = 1\n[training]\nseed = 1\n", "other.toml")
    for name, is_same in ((file, True), ("other.toml", False)):
        program("inspect", digits_file, "--preview", "b.png", "--augment", name)
        assert (sheet(program.folder / "b.png") == picture).all() == is_same


def test_images_in_color_are_drawn_as_well(program, config):
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (40, 6, 9, 3), dtype=np.uint8)
    np.savez(program.folder / "color.npz", x=x, y=np.arange(40) % 2)
    assert program("convert", "color.npz", "color.h5").returncode == 0
    file = config("[augmentation]\nelastic_strength = 5\nerasing = 0.5\nnoise = 0.1\n")
    told = program("inspect", "color.h5", "--preview", "c.png", "--augment", file)
    assert told.returncode == 0, told.stderr
    with Image.open(program.folder / "c.png") as image:
        colors = np.asarray(image.convert("RGB")).astype(int)
    assert np.ptp(colors, axis=2).max() > 100


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("[augmentation]\nshift = 1\n", (), "--augment draws augmented samples: name the sheet"),
        ("[training]\nseed = 1\n", ("--preview", "x.png"), "augment.toml switches no augmentation"),
        (
            "[augmentation]\nshfit = 1\n",
            ("--preview", "x.png"),
            "no such field; did you mean shift",
        ),
    ],
)
def test_what_is_wrong_is_said(program, digits_file, config, text, words, message):
    told = program("inspect", digits_file, "--augment", config(text), *words)
    assert told.returncode == 2
    assert message in told.stderr
    assert "Traceback" not in told.stderr
    assert not (program.folder / "x.png").exists()


def test_a_table_has_no_augmented_picture(program, config):
    (program.folder / "t.csv").write_text("a,b,label\n" + "1,2,x\n3,4,y\n" * 30)
    assert program("convert", "t.csv", "t.h5").returncode == 0
    for text, message in (
        ("[augmentation]\nzoom = 0.1\n", "sets zoom, which is for images, but the samples of t"),
        ("[augmentation]\nnoise = 0.1\n", "t.h5 holds no images"),
    ):
        told = program("inspect", "t.h5", "--preview", "x.png", "--augment", config(text))
        assert told.returncode == 2
        assert message in told.stderr
