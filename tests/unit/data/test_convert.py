import gzip
import pickle
import subprocess
import sys

import h5py
import numpy as np
import pytest
from PIL import Image

from lockstep.data import convert as convert_module
from lockstep.data.convert import ConvertOptions, convert
from lockstep.data.dataset_file import DatasetFile
from lockstep.data.recognize import Kind, recognize
from lockstep.data.split import shuffled
from lockstep.errors import UserError
from lockstep.streams import Purpose


@pytest.fixture
def out(tmp_path):
    return tmp_path / "made" / "out.h5"


@pytest.fixture
def table(tmp_path):
    """A table of 40 rows, 20 of each class."""
    rows = np.random.default_rng(0).normal(5, 3, (40, 3)).round(3)
    path = tmp_path / "table.csv"
    path.write_text("".join(f"{a},{b},{c},{n % 2}\n" for n, (a, b, c) in enumerate(rows)))
    return path, rows.astype(np.float32)


@pytest.fixture
def pets(tmp_path):
    for name, value in (("cat", 10), ("dog", 200)):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(10):
            pixels = np.full((4, 4), value + number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{number}.png")
    return tmp_path / "pets"


def test_digits(out, read_all):
    info = convert("digits", out)
    assert info.num_samples == {"train": 1437, "validation": 180, "test": 180}
    assert (info.name, info.source, info.image_form) == ("digits", "digits", "digit")
    assert (info.dtype, info.scale, info.offset) == (np.uint8, 1 / 16, 0)
    assert info.source_files == ("images", "labels")
    x, _ = read_all(out, "train")
    assert x.max() == 16
    with DatasetFile.open(out) as file:
        file.verify()
        counts = [file.class_counts(split) for split in ("train", "validation", "test")]
    np.testing.assert_array_equal(sum(counts), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
    assert counts[2].min() >= 17


def test_the_content_is_the_same_everywhere(out):
    digest = "f7655e3c93bc114d4dae3f39e4edaf5782b04a6d1c1509efdf71223d7721f8e6"
    assert convert("digits", out).content_sha256 == digest


def test_an_idx_folder_is_split_as_mnist_is(idx_folder, small_mnist, out, read_all):
    info = convert(str(idx_folder), out, ConvertOptions(seed=5))
    images, labels, test_images, test_labels = small_mnist
    order = shuffled(50, 5, Purpose.SHUFFLE)
    assert info.shuffle_seed == 5
    for split, x, y in (
        ("train", images[:50][order], labels[:50][order]),
        ("validation", images[50:], labels[50:]),
        ("test", test_images, test_labels),
    ):
        stored_x, stored_y = read_all(out, split)
        np.testing.assert_array_equal(stored_x, x)
        np.testing.assert_array_equal(stored_y, y)


def test_the_same_images_from_a_pickle_and_an_npz(idx_folder, small_mnist, tmp_path, out):
    images, labels, test_images, test_labels = small_mnist
    pixels, test_pixels = (
        array.reshape(len(array), 16) / np.float32(256) for array in (images, test_images)
    )
    y, test_y = labels.astype(np.int64), test_labels.astype(np.int64)
    content = ((pixels[:50], y[:50]), (pixels[50:], y[50:]), (test_pixels, test_y))
    (tmp_path / "mnist.pkl.gz").write_bytes(gzip.compress(pickle.dumps(content, 2)))
    np.savez(tmp_path / "mnist.npz", x_train=images, y_train=y, x_test=test_images, y_test=test_y)
    overwrite = ConvertOptions(overwrite=True)
    infos = [
        convert(str(source), out, overwrite)
        for source in (idx_folder, tmp_path / "mnist.pkl.gz", tmp_path / "mnist.npz")
    ]
    assert len({info.content_sha256 for info in infos}) == 1
    assert {info.scale for info in infos} == {1 / 255}


@pytest.mark.mnist
def test_mnist(mnist_folder, out):
    info = convert(str(mnist_folder), out)
    assert info.num_samples == {"train": 50_000, "validation": 10_000, "test": 10_000}
    digest = "e81378335076c25216f24543cf3d41a38ea231335076e0fe01c1c24ba0a963a5"
    assert info.content_sha256 == digest


def test_a_table_is_split_and_every_row_kept(table, out, read_all):
    path, rows = table
    info = convert(str(path), out, ConvertOptions(validation=0.25, test=4))
    assert info.num_samples == {"train": 26, "validation": 10, "test": 4}
    assert (info.name, info.source, info.source_files) == ("table", "table.csv", ("table.csv",))
    assert (info.scale, info.offset, info.dtype) == (1, 0, np.float32)
    merged_x, merged_y = zip(*(read_all(out, split) for split in info.num_samples), strict=True)
    x, y = np.concatenate(merged_x), np.concatenate(merged_y)
    found = [int((rows == row).all(axis=1).argmax()) for row in x]
    assert sorted(found) == list(range(40))
    np.testing.assert_array_equal(np.array(found) % 2, y)
    assert found[:26] != sorted(found[:26])
    assert found[26:36] == sorted(found[26:36])


def test_standardize_by_the_training_rows(table, out, read_all):
    path, _ = table
    info = convert(str(path), out, ConvertOptions(standardize=True))
    x, _ = read_all(out, "train")
    scaled = x * info.scale + info.offset
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(scaled.std(axis=0), 1, rtol=1e-12)
    assert info.scale.shape == (3,)


def test_the_scale_can_be_given(idx_folder, out):
    info = convert(str(idx_folder), out, ConvertOptions(scale=0.5))
    assert (info.scale, info.offset) == (0.5, 0)


def test_splits_may_be_left_empty(table, out):
    info = convert(str(table[0]), out, ConvertOptions(validation=0, test=0))
    assert info.num_samples == {"train": 40, "validation": 0, "test": 0}


def test_images(pets, out, read_all):
    info = convert(str(pets), out, ConvertOptions(image_size=(3, 2)))
    assert info.feature_shape == (3, 2)
    assert info.num_samples == {"train": 16, "validation": 2, "test": 2}
    x, y = read_all(out, "train")
    np.testing.assert_array_equal(x[:, 0, 0] >= 200, y)


def test_seeds_and_repetition(table, out, tmp_path):
    def content(seed, name):
        convert(str(table[0]), tmp_path / name, ConvertOptions(seed=seed))
        return (tmp_path / name).read_bytes()

    assert content(1, "a.h5") == content(1, "b.h5")
    assert content(1, "c.h5") != content(2, "d.h5")


def test_chunk_rows(idx_folder, out):
    convert(str(idx_folder), out, ConvertOptions(chunk_rows=7))
    with h5py.File(out) as file:
        assert file["train/x"].chunks == (7, 4, 4)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("digits", {"label_column": "a"}, "--label-column doesn't apply to `digits`"),
        ("digits", {"mirrors": ("x",)}, "--mirror doesn't apply to `digits`.*only to `mnist`"),
        ("table", {"image_size": (2, 2)}, r"--image-size doesn't apply to a \.csv"),
        ("table", {"color": "rgb"}, "--color doesn't apply"),
        ("idx", {"header": False}, "--header doesn't apply to a folder of four IDX files"),
        ("idx", {"delimiter": ";"}, "--delimiter doesn't apply"),
        ("idx", {"test": 5}, "--test doesn't apply to .*own test split"),
        ("idx", {"validation": 60}, "--validation 60 leaves no training rows"),
        ("idx", {"validation": 59}, "class '1' has no training row"),
        ("table", {"validation": 30, "test": 9}, "too many"),
        ("table", {"seed": -1}, "--seed -1 should be"),
        ("table", {"seed": 2**64}, "--seed"),
        ("table", {"scale": 0.0}, "--scale 0.0 should be"),
        ("table", {"scale": float("nan")}, "--scale nan should be"),
        ("table", {"scale": 2.0, "standardize": True}, "exclude each other"),
        ("table", {"chunk_rows": 0}, "--chunk-rows 0 should be"),
        ("table", {"delimiter": "::"}, "--delimiter '::' should be one character"),
        ("table", {"delimiter": ""}, "--delimiter '' should be one character"),
        ("table", {"delimiter": '"'}, "should be one character"),
        ("pets", {"image_size": (0, 2)}, "--image-size"),
        ("pets", {"color": "blue"}, "--color blue should be gray or rgb"),
    ],
)
def test_options_that_do_not_fit(source, options, message, table, pets, idx_folder, out):
    path = {"digits": "digits", "table": table[0], "pets": pets, "idx": idx_folder}[source]
    with pytest.raises(UserError, match=message):
        convert(str(path), out, ConvertOptions(**options))
    assert not out.exists()
    assert not out.parent.exists() or not list(out.parent.iterdir())


def test_a_pickle_has_splits_of_its_own(small_mnist, tmp_path, out):
    pair = (np.zeros((4, 4), np.float32), np.array([0, 1, 0, 1]))
    (tmp_path / "m.pkl").write_bytes(pickle.dumps((pair,) * 3, 2))
    for name in ("validation", "test"):
        with pytest.raises(UserError, match=rf"--{name} doesn't apply to .*m\.pkl"):
            convert(str(tmp_path / "m.pkl"), out, ConvertOptions(**{name: 1}))


def test_existing_files_are_kept(table, out):
    out.parent.mkdir()
    out.write_text("precious")
    with pytest.raises(UserError, match=r"out\.h5 exists already: .*--overwrite"):
        convert(str(table[0]), out)
    assert out.read_text() == "precious"
    convert(str(table[0]), out, ConvertOptions(overwrite=True))
    with pytest.raises(UserError, match="is the source itself"):
        convert(str(table[0]), table[0], ConvertOptions(overwrite=True))
    with pytest.raises(UserError, match="is a folder: name the file"):
        convert(str(table[0]), out.parent)


def test_a_failed_conversion_keeps_the_old_file_and_leaves_nothing(table, out, monkeypatch):
    path, _ = table
    info = convert(str(path), out)

    class Broken:
        def __init__(self, _shape):
            pass

        def add(self, _block):
            raise RuntimeError("in the middle")

    monkeypatch.setattr(convert_module, "Moments", Broken)
    with pytest.raises(RuntimeError, match="in the middle"):
        convert(str(path), out, ConvertOptions(overwrite=True, standardize=True))
    assert [entry.name for entry in out.parent.iterdir()] == ["out.h5"]
    with DatasetFile.open(out) as file:
        assert file.info.content_sha256 == info.content_sha256


def test_a_wrong_row_in_the_middle_leaves_nothing(table, out):
    path, _ = table
    path.write_text(f"{path.read_text()}1,2,x,1\n")
    with pytest.raises(UserError, match=r"table\.csv, line 41, column 2: 'x' is no number"):
        convert(str(path), out)
    assert list(out.parent.iterdir()) == []


def test_an_image_that_breaks_while_it_is_written(pets, out, monkeypatch):
    def broken(path, *_args):
        raise UserError(f"Can't read the image {path}: gone.")

    monkeypatch.setattr("lockstep.data.sources.image_folder.read_image", broken)
    with pytest.raises(UserError, match="Can't read the image"):
        convert(str(pets), out)
    assert list(out.parent.iterdir()) == []


def test_the_folder_of_the_output_can_not_be_made(table, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Can't make the folder"):
        convert(str(table[0]), tmp_path / "file" / "out.h5")


def test_regression_and_single_classes_are_said(tmp_path, out):
    path = tmp_path / "t.csv"
    path.write_text("1,0.5\n2,0.25\n3,0.125\n")
    with pytest.raises(UserError, match=r"Class '0\.125' has too few rows.*right column"):
        convert(str(path), out, ConvertOptions(validation=1, test=1))
    path.write_text("1,a\n2,a\n3,a\n")
    with pytest.raises(UserError, match=r"t\.csv has one class only, 'a'"):
        convert(str(path), out)


def test_sources_are_recognized(tmp_path, table, idx_folder, pets):
    assert recognize("digits") == Kind.DIGITS
    assert recognize("mnist") == Kind.MNIST
    assert recognize(str(table[0])) == Kind.TABLE
    assert recognize(str(idx_folder)) == Kind.IDX
    assert recognize(str(pets)) == Kind.IMAGE_FOLDER
    for name, kind in (
        ("a.CSV.gz", Kind.TABLE),
        ("a.tsv", Kind.TABLE),
        ("a.npz", Kind.NPZ),
        ("a.pkl", Kind.PICKLED),
        ("mnist.pkl.gz", Kind.PICKLED),
    ):
        (tmp_path / name).write_text("")
        assert recognize(str(tmp_path / name)) == kind


def test_an_unknown_source_gets_the_list_of_what_is_possible(tmp_path, idx_folder, out):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.docx").write_text("")
    for source, why in (
        ("mist", "There is no such file, folder or data set"),
        (tmp_path / "a.docx", "That kind of file isn't known"),
        (tmp_path / "empty", "neither IDX files nor sub-folders"),
    ):
        with pytest.raises(UserError, match=why) as error:
            convert(str(source), out)
        assert str(source) in str(error.value)
        for kind in Kind:
            assert kind.description in str(error.value)
    with pytest.raises(UserError, match="one of four IDX files: name their folder"):
        recognize(str(idx_folder / "train-labels-idx1-ubyte"))
    convert("digits", out)
    with pytest.raises(UserError, match=r"is an HDF5 file: .*lockstep inspect"):
        recognize(str(out))


def test_slow_libraries_are_imported_only_when_needed():
    check = (
        "import sys, lockstep.data.convert, lockstep.data.dataset_file; "
        "print(sorted({'sklearn', 'PIL', 'pooch', 'requests', 'mpi4py'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_nothing_is_printed_when_there_is_no_terminal(table, out, capfd):
    convert(str(table[0]), out)
    assert capfd.readouterr() == ("", "")
