"""What users get wrong, as they do it: one message, exit code 2, and nothing left behind."""

import json
import os
import pickle
import shutil
import struct
import zlib

import h5py
import numpy as np
import pytest
from PIL import Image

from lockstep.config import load_config
from lockstep.errors import UserError
from lockstep.parallel.single import SingleProcess
from lockstep.storage.checkpoint import Checkpoint, CheckpointStore
from lockstep.train.model import check_run_facts, checkpoint_snapshot, load_model
from lockstep.train.run import run_training

SPLITS = ("train", "validation", "test")
NAN = float("nan")


@pytest.fixture(scope="module")
def finished(digits_file, tmp_path_factory):
    """Return the folder of a small finished run."""
    options = {"hidden_widths": "3", "epochs": "1", "data": str(digits_file)}
    folder = tmp_path_factory.mktemp("finished")
    config = load_config(None, options)
    return run_training(config, SingleProcess(), folder, "run", quiet=True).folder.path


@pytest.fixture
def refused(program):
    """Return what runs a command that is to be refused, and gives its message."""

    def run(*command):
        before = files(program.folder)
        result = program(*command)
        assert result.returncode == 2, result.stderr
        assert result.stdout == ""
        assert result.stderr.startswith("Error: ")
        assert "Traceback" not in result.stderr
        assert len(result.stderr) < 1500
        assert files(program.folder) == before
        return result.stderr

    return run


def files(folder):
    return sorted(str(path) for path in folder.rglob("*"))


# ------------------------------------------------------------------------------- data sets


def attribute(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


def cell(name, place, value):
    return lambda file: file[name].__setitem__(place, value)


def huge(file):
    for part, shape in (("x", (8, 8)), ("y", ())):
        dtype = file[f"train/{part}"].dtype
        del file[f"train/{part}"]
        file.create_dataset(f"train/{part}", (10**15, *shape), dtype, chunks=(1000, *shape))


def wide(file):
    file.attrs["feature_shape"] = [10**12]
    for split in SPLITS:
        num_rows = len(file[f"{split}/y"])
        del file[f"{split}/x"]
        file.create_dataset(f"{split}/x", (num_rows, 10**12), "u1", chunks=(1, 1000))


def link_to_pipe(file):
    del file["validation"]
    file["validation"] = h5py.ExternalLink("pipe", "/validation")


def virtual_from_pipe(file):
    layout = h5py.VirtualLayout((1437, 8, 8), "u1")
    layout[:] = h5py.VirtualSource("pipe", "train/x", (1437, 8, 8))
    del file["train/x"]
    file.create_virtual_dataset("train/x", layout)


def external_pipe(file):
    del file["train/x"]
    file.create_dataset("train/x", (1437, 8, 8), "u1", external=[("pipe", 0, 1437 * 64)])


def needs_a_plugin(file):
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((100, 8, 8))
    plan.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
    space = h5py.h5s.create_simple(file["test/x"].shape)
    del file["test/x"]
    h5py.h5d.create(file["test"].id, b"x", h5py.h5t.STD_U8LE, space, plan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cell("test/y", 3, -1), "test/y has the label -1 in row 3 (counted from 0)"),
        (cell("validation/y", 0, 10), "validation/y has the label 10 in row 0"),
        (huge, "train/x of shape (1000000000000000, 8, 8) takes 64000000000000000 bytes"),
        (wide, "train/x of shape (1437, 1000000000000) takes"),
        (link_to_pipe, "validation/x is a link"),
        (virtual_from_pipe, "train/x lies in other files"),
        (external_pipe, "train/x lies in other files"),
        (needs_a_plugin, "test/x is compressed by a filter that isn't read here (number 32015)"),
        (attribute("scale", h5py.Empty("f8")), "its attribute scale should be numbers or texts"),
        (attribute("name", "../../somewhere"), "and should be a plain name"),
        (attribute("name", np.bytes_(b"\xff\xfe")), "its attribute name should be a text"),
        (attribute("white", 0), "its attribute white is 0"),
        (attribute("feature_shape", np.array([2**63, 2], "u8")), "train/x has shape (1437, 8, 8)"),
    ],
)
def test_a_data_set_made_by_hand(program, refused, digits_file, change, message):
    path = program.folder / "wrong.h5"
    shutil.copy(digits_file, path)
    with h5py.File(path, "r+") as file:
        change(file)
    # Whoever opens it waits for ever.
    os.mkfifo(program.folder / "pipe")
    found = refused("train", "--data", "wrong.h5", "--epochs", "1")
    assert found.startswith(f"Error: {path.name}")
    assert message in found
    assert "lockstep convert" in found or "h5repack" in found


@pytest.mark.parametrize(
    ("split", "value"), [("train", NAN), ("validation", float("inf")), ("test", NAN)]
)
def test_values_that_are_not_finite(program, digits_file, split, value):
    path = program.folder / "wrong.h5"
    shutil.copy(digits_file, path)
    with h5py.File(path, "r+") as file:
        for name in SPLITS:
            x = file[f"{name}/x"][()].astype("f4")
            del file[f"{name}/x"]
            file[f"{name}/x"] = x
        file[f"{split}/x"][9, 2, 3] = value
    result = program("train", "--data", "wrong.h5", "--epochs", "1")
    assert result.returncode == 2
    assert f"wrong.h5: {split}/x has values that aren't finite" in result.stderr
    assert "first in row 9 (counted from 0)" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"hello" * 100, b"\x89HDF\r\n\x1a\n", None])
def test_a_file_that_is_no_data_set(program, refused, digits_file, content):
    if content is None:
        content = digits_file.read_bytes()[:-1000]
    (program.folder / "wrong.h5").write_bytes(content)
    for command in (("train", "--data", "wrong.h5"), ("inspect", "wrong.h5")):
        assert "wrong.h5 is " in refused(*command)


# ------------------------------------------------------------------------------- configurations


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"[network]\nhidden_widths = {'[' * 5000}{']' * 5000}", "nested too deeply"),
        (f"[training]\n{'epochs' + '.a' * 5000} = 1", "a huge value won't do (whole number)"),
        (f"[training]\nepochs = {'9' * 400}", "9... won't do (whole number)"),
        (f"[training]\nepochs = {'9' * 5000}", "run.toml is not valid TOML"),
        (f"[training]\nepochs = 0x{'f' * 5000}", "a huge value won't do (whole number)"),
        (f"[training]\nseed = '{'x' * 60_000}'", "x... won't do (whole number)"),
        (f"[training]\nseed = '{'x' * 70_000}'", "run.toml is no configuration"),
        ("[training]\n" + "\n".join(f"k{i} = 1" for i in range(3000)), "and 2980 more"),
        (f"[network]\nhidden_widths = [{'1,' * 1001}]", "length <= 1000"),
        ("[network]\nhidden_widths = [1000001]", "int <= 1000000"),
        ("[training]\nvirtual_ranks = 1000001", "int <= 1000000"),
        ("[training]\npatience = -1", "int >= 0"),
        ("[training]\nepochs = true", "Expected int, got bool"),
        ("[optimization]\nlearning_rate = nan", "won't do (number)"),
        ("[optimization]\nlearning_rate = 1e400", "inf won't do (number)"),
        ("[network]\nactivation = ['relu']", "is none of"),
        (b"\xff\xfe", "run.toml is not valid TOML"),
        (b"\0", "run.toml is not valid TOML"),
    ],
)
def test_a_configuration(program, refused, text, message):
    content = text if isinstance(text, bytes) else text.encode()
    (program.folder / "run.toml").write_bytes(content)
    found = refused("train", "run.toml", "--data", "none.h5")
    assert message in found
    assert "run.toml" in found


def test_a_folder_is_no_configuration(program, refused):
    assert "Is a directory" in refused("train", ".")


# ------------------------------------------------------------------------------- sources


def table(text):
    return lambda folder: (folder / "source.csv").write_text(text)


def arrays(**contents):
    return lambda folder: np.savez(folder / "source.npz", **contents)


def images(**contents):
    def write(folder):
        for name, content in contents.items():
            (folder / "source" / name).mkdir(parents=True)
            Image.new("L", (4, 4)).save(folder / "source" / name / "good.png")
            (folder / "source" / name / "zz.png").write_bytes(content)

    return write


def png_of_size(width, height):
    """Return the beginning of a PNG that claims a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = b""
    for name, content in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100))):
        checked = name + content
        chunks += struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))
    return b"\x89PNG\r\n\x1a\n" + chunks


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n(x) run\n"
X = np.arange(40.0).reshape(20, 2)
Y = np.arange(20) % 2


@pytest.mark.parametrize(
    ("source", "write", "message"),
    [
        ("source.csv", table("a,b\n1,x\nnan,y\n"), "line 3, column a: the value is missing"),
        ("source.csv", table("a,b\n1,x\n1e99,y\n"), "too large for float32"),
        ("source.csv", table("a,b\n1,x\n\0,y\n"), "is no number"),
        ("source.csv", table("a,b\n" + "1,x\0\n2,y\n" * 9), "has characters that a data set"),
        ("source.csv", table("a,b\n" + "9" * 10**6 + ",x\n2,y\n"), "field larger than field limit"),
        ("source.csv", table("a,b\n" + "1,x\n2,x\n" * 9), "has one class only, 'x'"),
        ("source.npz", arrays(x=X * [1, NAN], y=Y), "aren't finite, first in row 0"),
        ("source.npz", arrays(x=X, y=Y * 0), "has one class only, '0'"),
        ("source.npz", arrays(x=X, y=Y + 1e300), "are no classes"),
        ("source.npz", arrays(x=X, y=np.array([b"\xff", b"a"] * 10)), "labels aren't UTF-8"),
        ("source.npz", arrays(x=np.array([print] * 20), y=Y), "no .npz file of plain arrays"),
        ("source", images(a=png_of_size(60_000, 60_000), b=b""), "more than 89478485 pixels"),
        ("source", images(a=png_of_size(4, 4)[:50], b=b""), "zz.png"),
        ("source", images(a=POSTSCRIPT, b=b""), "zz.png is no image that can be read"),
    ],
)
def test_a_source(program, refused, source, write, message):
    write(program.folder)
    found = refused("convert", source, "new.h5")
    assert source in found
    assert message in found


# ------------------------------------------------------------------------------- samples


def animated(path):
    frames = [Image.new("L", (8, 8), shade) for shade in (0, 200)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def npy_header(path, shape, dtype="|u1"):
    with path.open("wb") as file:
        header = {"descr": dtype, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("s.png", lambda path: path.write_bytes(png_of_size(10**5, 10**5)), "89478485 pixels"),
        ("s.png", lambda path: path.write_bytes(png_of_size(8, 8)), "s.png"),
        ("s.png", lambda path: path.write_bytes(POSTSCRIPT), "is no image that can be read"),
        ("s.gif", animated, "s.gif has several frames"),
        ("s.npy", lambda path: npy_header(path, (10**15, 8, 8)), "s.npy as a NumPy array"),
        ("s.npy", lambda path: npy_header(path, (2**62, 2**62)), "s.npy as a NumPy array"),
        ("s.npy", lambda path: path.write_bytes(pickle.dumps([1])), "s.npy as a NumPy array"),
        ("s.npy", lambda path: np.save(path, np.full((1, 64), NAN)), "row 1 has NaN"),
        ("s.npy", lambda path: np.save(path, np.full((1, 64), 1e300)), "infinite or huge values"),
        ("s.npy", lambda path: np.save(path, np.array([{}])), "s.npy as a NumPy array"),
        ("s.csv", lambda path: path.write_text("1,2\n3,4\0\n"), "line 1: 2 cells"),
        ("s.h5", lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"), "s.h5 is damaged"),
        ("s.npy", os.mkfifo, "s.npy is no file"),
    ],
)
def test_a_sample(program, refused, finished, name, write, message):
    write(program.folder / name)
    assert message in refused("predict", str(finished), name)


# ------------------------------------------------------------------------------- run folders


@pytest.fixture
def run(program, finished):
    folder = program.folder / "results" / "run"
    shutil.copytree(finished, folder)
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../step-00000001.safetensors", "should name a checkpoint beside it"),
        ("/etc/passwd", "should name a checkpoint beside it"),
        ("x" * 10_000, "should name a checkpoint beside it"),
        ("\xff", "should name a checkpoint beside it"),
        ("step-00000099.safetensors", "Can't read the checkpoint"),
    ],
)
def test_a_pointer_to_elsewhere(program, refused, run, name, message):
    (run / "checkpoints" / "best").write_text(name)
    np.save(program.folder / "s.npy", np.zeros((1, 64)))
    assert message in refused("predict", "results/run", "s.npy")
    assert message in refused("evaluate", "results/run")


@pytest.mark.parametrize("name", ["best", "step"])
def test_a_checkpoint_that_is_a_link(refused, run, name):
    checkpoints = run / "checkpoints"
    name = (checkpoints / "best").read_text().strip() if name == "step" else name
    (checkpoints / name).rename(run / "elsewhere")
    (checkpoints / name).symlink_to("../elsewhere")
    assert f"{name} is a link" in refused("evaluate", "results/run")


@pytest.mark.parametrize("length", [0, 2**62, 2**64 - 1, 10**8])
def test_a_checkpoint_with_an_absurd_header(refused, run, length):
    checkpoints = run / "checkpoints"
    path = checkpoints / (checkpoints / "best").read_text().strip()
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    assert f"Can't read the checkpoint results/run/checkpoints/{path.name}" in refused(
        "evaluate", "results/run"
    )


def test_a_run_that_is_locked_by_a_link_to_a_file_of_the_users(program, run):
    precious = program.folder / "precious"
    precious.write_text("precious")
    (run / ".lock").unlink()
    (run / ".lock").symlink_to(precious)
    assert program("train", "--resume", "results/run").returncode == 0
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("name", ["run.json", "summary.json", "metrics.jsonl"])
@pytest.mark.parametrize(
    "content",
    [b"{", b"[" * 100_000, b"\xff", b'{"epoch": "x", "dataset": 3, "num_steps": []}'],
)
def test_a_file_of_a_run_that_is_damaged(program, run, name, content):
    shutil.copytree(run, run.with_name("other"))
    (run / name).write_bytes(content + b"\n")
    result = program("report", "results/run")
    assert result.returncode == 0
    assert f"Warning: {name}" in result.stderr
    assert "Traceback" not in result.stderr
    result = program("compare", "results/run", "results/other")
    assert result.returncode == 2
    assert f"Can't compare results/run: {name}" in result.stderr
    assert "Traceback" not in result.stderr


def test_figures_that_do_not_fit(program, run):
    from safetensors.numpy import load_file, save_file  # noqa: PLC0415

    figures = load_file(run / "figures.safetensors")
    figures["mistakes.true"] = figures["mistakes.true"][:-1]
    save_file(figures, run / "figures.safetensors")
    result = program("report", "results/run")
    assert result.returncode == 0
    assert "Warning: figures.safetensors is damaged" in result.stderr
    assert json.loads((run / "summary.json").read_text())


# ------------------------------------------------------------------------------- checkpoints


def without(name):
    return lambda facts, arrays: (facts.pop(name, None), arrays.pop(name, None))


def fact(name, value):
    return lambda facts, arrays: facts.update({name: value})


def array(name, shape, dtype="f4"):
    return lambda facts, arrays: arrays.update({name: np.ones(shape, dtype)})


@pytest.fixture(scope="module")
def checkpoint(finished):
    return CheckpointStore(finished / "checkpoints").load("latest")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("widths"), "missing required field widths"),
        (fact("widths", "64"), "Expected array, got str - at widths"),
        (fact("widths", [64, 2**70, 10]), "at widths[1]"),
        (fact("widths", [64, -3, 10]), "at widths[1]"),
        (fact("widths", [63, 3, 10]), "don't fit its features and classes"),
        (fact("widths", [64, 4, 10]), "layers.0.weight, float32 or float64 (64, 4), is float32"),
        (fact("widths", [64, 3, 3, 10]), "layers.1.weight, float32 or float64 (3, 3), is float32"),
        (fact("activation", "os.system"), "at activation"),
        (fact("class_names", [1] * 10), "at class_names[0]"),
        (fact("feature_shape", [8, "8"]), "at feature_shape[1]"),
        (fact("white", 0), "at white"),
        (without("layers.1.bias"), "layers.1.bias, float32 or float64 (10,), is missing"),
        (array("layers.1.bias", (10,), "i4"), "is int32 (10,)"),
        (
            array("input.scale", (3,)),
            "input.scale, float32 or float64 () or (64,), is float32 (3,)",
        ),
    ],
)
def test_a_checkpoint_that_holds_no_model(checkpoint, change, message):
    facts, arrays = dict(checkpoint.facts), dict(checkpoint.arrays)
    change(facts, arrays)
    with pytest.raises(UserError) as error:
        load_model(Checkpoint(arrays, facts, "step-1"))
    assert str(error.value).startswith("step-1 doesn't hold what a checkpoint of Lockstep should: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("epoch"), "missing required field epoch"),
        (fact("epoch", "1"), "at epoch"),
        (fact("best_loss", []), "at best_loss"),
        (fact("config", {"training": 3}), "at config[...]"),
        (fact("spent_s", None), "at spent_s"),
    ],
)
def test_a_checkpoint_from_which_no_training_goes_on(checkpoint, change, message):
    check_run_facts(checkpoint)
    facts = dict(checkpoint.facts)
    change(facts, {})
    with pytest.raises(UserError) as error:
        check_run_facts(Checkpoint(checkpoint.arrays, facts, "step-1"))
    assert message in str(error.value)


def test_an_optimizer_of_another_network(checkpoint):
    name = next(name for name in checkpoint.arrays if name.startswith("optimizer."))
    arrays = {**checkpoint.arrays, name: np.ones(3, "f4")}
    network = load_model(checkpoint).network
    with pytest.raises(UserError, match=f"its array {name}, .* is float32 \\(3,\\)"):
        checkpoint_snapshot(Checkpoint(arrays, checkpoint.facts), network)
