"""The commands as a user runs them."""

import csv
import io
import json
import os
import pty
import re
import subprocess
import termios
import tomllib

import h5py
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from sklearn.metrics import accuracy_score, f1_score

from lockstep.data.dataset_file import DatasetFile

QUICK = (
    "--epochs",
    "2",
    "--global-batch-size",
    "128",
    "--hidden-widths",
    "32",
    "--virtual-ranks",
    "4",
)
NAME = ("--run-name", "run")


@pytest.fixture
def trained(program, digits_file):
    done = program("train", "--data", digits_file, *QUICK, *NAME, "--learning-rate", "0.02")
    assert done.returncode == 0, done.stderr
    return done


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_training_tells_its_course_and_fills_the_run_folder(program, trained):
    assert re.search(
        r"^Epoch 2: 1\d\d / 180 \(\d\d\.\d\d%\), validation loss", trained.stdout, re.MULTILINE
    )
    assert re.search(r"^Test accuracy: \d\d\.\d\d% \(1\d\d / 180\), weights of epoch \d$",
                     trained.stdout, re.MULTILINE)  # fmt: skip
    assert (
        trained.stdout.splitlines()[-1] == "Run folder: results/run (open report.html in a browser)"
    )
    assert trained.stderr == ""
    assert files_of(program.folder / "results" / "run") == {
        ".lock",
        "config.toml", "run.json", "metrics.jsonl", "summary.json", "figures.safetensors",
        "report.html", "checkpoints/latest", "checkpoints/best",
        "checkpoints/step-00000012.safetensors", "checkpoints/step-00000024.safetensors",
        *(f"plots/{name}.png" for name in (
            "learning_curves", "correct_by_epoch", "confusion_matrix", "per_class_scores",
            "time_per_phase", "mistakes", "first_layer_weights",
        )),
    }  # fmt: skip


def test_the_summary_agrees_with_scikit_learn_on_the_checkpoint(program, trained, digits_file):
    summary = program.summary("run")
    config = tomllib.loads((program.folder / "results/run/config.toml").read_text())
    assert config["training"]["virtual_ranks"] == 4
    best = (program.folder / "results/run/checkpoints/best").read_text().strip()
    arrays = load_file(program.folder / "results/run/checkpoints" / best)
    with h5py.File(digits_file) as file:
        x, y = file["test/x"][:].reshape(-1, 64) / 16, file["test/y"][:]
    hidden = np.maximum(x @ arrays["layers.0.weight"] + arrays["layers.0.bias"], 0)
    predicted = (hidden @ arrays["layers.1.weight"] + arrays["layers.1.bias"]).argmax(axis=1)
    assert summary["test_accuracy"] == pytest.approx(accuracy_score(y, predicted))
    assert summary["macro_f1"] == pytest.approx(f1_score(y, predicted, average="macro"))
    confusion = np.array(summary["confusion_matrix"])
    assert confusion.sum() == summary["test_total"] == 180
    assert confusion.trace() == summary["test_correct"] == (y == predicted).sum()
    assert confusion[3].sum() == (y == 3).sum()
    figures = load_file(program.folder / "results/run/figures.safetensors")
    rows = figures["mistakes.index"]
    assert set(rows) <= set(np.flatnonzero(y != predicted))
    np.testing.assert_array_equal(figures["mistakes.true"], y[rows])
    np.testing.assert_array_equal(figures["mistakes.x"].reshape(-1, 64) / 16, x[rows])
    assert (np.diff(figures["mistakes.probability"]) <= 0).all()


def test_the_written_configuration_repeats_the_run(program, trained):
    again = program("train", "results/run/config.toml", "--run-name", "again", "-n", "3")
    assert again.returncode == 0, again.stderr
    assert program.summary("again")["weights_sha256"] == program.summary("run")["weights_sha256"]


def test_virtual_ranks_default_to_the_ranks_at_the_start(program, digits_file):
    done = program("train", "--data", digits_file, "--epochs", "1", *NAME, "-n", "2")
    assert done.returncode == 0, done.stderr
    run = json.loads((program.folder / "results/run/run.json").read_text())
    assert (run["world_size"], run["virtual_ranks"]) == (2, 2)
    assert sum(run["hosts"].values()) == 2
    assert run["blas"]["threads"] == 1
    assert {"numpy", "h5py", "mpi4py", "mpi", "lockstep", "python"} <= set(run["versions"])


def test_mpiexec_and_n_and_a_single_process_are_one_and_the_same(program, digits_file):
    arguments = ("train", "--data", digits_file, *QUICK)
    assert program(*arguments, "--run-name", "alone").returncode == 0
    assert program(*arguments, "--run-name", "started", "-n", "2").returncode == 0
    under = program.on_ranks(2, "-m", "lockstep", *arguments, "--run-name", "under")
    assert under.returncode == 0, under.stderr
    assert under.stdout.count("Test accuracy") == 1
    digests = {program.summary(run)["weights_sha256"] for run in ("alone", "started", "under")}
    assert len(digests) == 1


def test_early_stopping_keeps_the_best_weights_for_the_test(program, digits_file):
    done = program(
        "train", "--data", digits_file, *NAME, "--epochs", "50", "--patience", "2",
        "--hidden-widths", "32", "--learning-rate", "0.1", "--global-batch-size", "128",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"^Stopped early: .* since epoch \d+\.$", done.stdout, re.MULTILINE)
    summary = program.summary("run")
    lines = (program.folder / "results/run/metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    best = max(metrics, key=lambda m: (m["val_correct"], -m["val_loss"]))
    assert summary["stopped_early"]
    assert summary["num_epochs"] == len(metrics) == best["epoch"] + 2 < 50
    assert summary["tested_epoch"] == summary["best_epoch"] == best["epoch"]
    assert summary["num_steps"] == metrics[-1]["step"] == 12 * len(metrics)


def test_evaluate_gives_the_summarys_scores_on_any_number_of_ranks(program, trained):
    summary = program.summary("run")
    told = program.on_ranks(3, "-m", "lockstep", "evaluate", "results/run", "--json")
    assert told.returncode == 0, told.stderr
    scores = json.loads(told.stdout)
    assert scores.pop("split") == "test"
    for name, value in scores.items():
        assert value == summary.get(f"test_{name}", summary.get(name)), name
    table = program("evaluate", "results/run", "--split", "validation")
    best = summary["best_val_accuracy"]
    assert f"Validation accuracy: {best:.2%}" in table.stdout


def test_predict_reads_splits_arrays_tables_and_images(program, trained, digits_file):
    with DatasetFile.open(digits_file) as dataset:
        x, y = dataset.read("test", 0, 30)
    told = program("predict", "results/run", digits_file, "--csv")
    assert told.returncode == 0, told.stderr
    rows = list(csv.DictReader(io.StringIO(told.stdout)))
    assert len(rows) == 180
    assert sum(float(rows[0][str(digit)]) for digit in range(10)) == pytest.approx(1, abs=1e-5)
    assert np.mean([row["class"] == str(label) for row, label in zip(rows, y, strict=False)]) > 0.7
    classes = [row["class"] for row in rows[:30]]

    np.save(program.folder / "many.npy", x.reshape(-1, 8, 8))
    np.save(program.folder / "one.npy", x[0])
    header = ",".join(f"pixel{i}" for i in range(64))
    np.savetxt(program.folder / "table.csv", x, delimiter=",", header=header, comments="", fmt="%d")
    told = program("predict", "results/run", "many.npy", "one.npy", "table.csv", "--json")
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert [entry["class"] for entry in found] == [*classes, classes[0], *classes]
    assert [entry["source"] for entry in found][29:32] == ["many.npy:30", "one.npy", "table.csv:1"]

    # Black ink on white paper, eight times as large.
    drawing = 255 - np.kron(x[0].reshape(8, 8), np.ones((8, 8))) / 16 * 255
    Image.fromarray(drawing.astype(np.uint8)).save(program.folder / "drawn.png")
    told = program("predict", "results/run", "drawn.png")
    assert told.stdout.splitlines()[1].split()[:2] == ["drawn.png", classes[0]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.csv", "1,2,3\n", "bad.csv, line 1: 3 cells, but the network takes 64 numbers"),
        ("bad.npy", "no array", "Can't read bad.npy as a NumPy array"),
        ("bad.png", "no image", "bad.png is no image"),
        ("bad.h5", "no file", "bad.h5 is no HDF5 file"),
    ],
)
def test_predict_names_the_file_that_won_t_do(program, trained, name, content, message):
    (program.folder / name).write_text(content)
    told = program("predict", "results/run", name)
    assert told.returncode == 2
    assert told.stderr.startswith("Error: ")
    assert message in told.stderr
    assert "Traceback" not in told.stderr


def test_predict_refuses_pixels_that_are_scaled_already(program, trained):
    np.save(program.folder / "scaled.npy", np.full((2, 64), 0.5))
    told = program("predict", "results/run", "scaled.npy")
    assert told.returncode == 2
    assert "where white is 16: multiply them by 16" in told.stderr


@pytest.mark.parametrize("option", ["--standardize", "--scale=0.5"])
def test_drawn_digits_are_read_right_whatever_the_scaling(program, option):
    assert program("convert", "digits", "d.h5", option).returncode == 0
    done = program("train", "--data", "d.h5", "--epochs", "8", *NAME)
    assert done.returncode == 0, done.stderr
    with DatasetFile.open(program.folder / "d.h5") as dataset:
        x, y = dataset.read("test", 0, 40)
    for index, digit in enumerate(x):
        ink = np.kron(digit.reshape(8, 8), np.ones((6, 6))) / 16 * 255
        Image.fromarray(ink.astype(np.uint8)).save(program.folder / f"{index:02}.png")
    names = [f"{index:02}.png" for index in range(40)]
    told = program("predict", "results/run", *names, "--json")
    classes = [entry["class"] for entry in json.loads(told.stdout)]
    assert np.mean([name == str(label) for name, label in zip(classes, y, strict=True)]) > 0.8


def test_evaluate_notices_that_the_data_have_changed(program):
    assert program("convert", "digits", "d.h5").returncode == 0
    assert program("train", "--data", "d.h5", "--epochs", "1", *NAME).returncode == 0
    assert program("convert", "digits", "d.h5", "--seed", "5", "--overwrite").returncode == 0
    told = program("evaluate", "results/run")
    assert told.returncode == 2
    assert "d.h5 has changed since the run was trained" in told.stderr
    assert program("evaluate", "results/run", "--data", "d.h5").returncode == 0


def test_runs_of_the_same_second_get_folders_of_their_own(program, digits_file):
    command = [program.python, "-m", "lockstep", "train", "--data", digits_file, "--epochs", "1"]
    jobs = [
        subprocess.Popen(list(map(str, command)), cwd=program.folder, stdout=subprocess.DEVNULL)
        for _ in range(4)
    ]
    assert [job.wait(timeout=100) for job in jobs] == [0] * 4
    assert len(list((program.folder / "results").glob("digits-*/summary.json"))) == 4


def test_report_draws_again_from_the_folder_alone(program, trained, digits_file):
    run = program.folder / "results" / "run"
    for path in [*run.glob("plots/*"), run / "report.html"]:
        path.unlink()
    moved = program.folder / "elsewhere"
    run.rename(moved)
    told = program("report", "elsewhere")
    assert told.returncode == 0, told.stderr
    assert len(told.stdout.split()) == 8
    assert (moved / "report.html").stat().st_size > 100_000
    assert program("report", program.folder).returncode == 2


def test_convert_and_inspect(program):
    made = program("convert", "digits", "out/d.h5", "--validation", "0.2", "--test", "100")
    assert made.returncode == 0, made.stderr
    told = program("inspect", "out/d.h5", "--verify", "--preview", "sheet.png")
    assert told.returncode == 0, told.stderr
    assert "verified" in told.stdout
    assert re.search(r"all classes +1,338 +359 +100", told.stdout)
    with Image.open(program.folder / "sheet.png") as sheet:
        assert min(sheet.size) > 300
    again = program("convert", "digits", "out/d.h5")
    assert again.returncode == 2
    assert "d.h5 exists already" in again.stderr


def test_help_is_there_for_every_command(program):
    told = program("--help").stdout
    commands = re.findall(r"^  (\w+)  +\S", told.split("Commands:")[1], re.MULTILINE)
    assert commands == [
        "bench", "compare", "convert", "doctor", "evaluate", "inspect", "predict", "report",
        "status", "submit", "sweep", "train", "verify",
    ]  # fmt: skip
    for command in commands:
        assert len(program(command, "--help").stdout.splitlines()) > 5


def test_the_shell_completes_options_and_their_words(program):
    def complete(*words):
        told = program(
            COMP_WORDS=" ".join(["lockstep", *words]),
            COMP_CWORD=str(len(words)),
            _LOCKSTEP_COMPLETE="bash_complete",
        )
        return [line.removeprefix("plain,") for line in told.stdout.split()]

    assert complete("tr") == ["train"]
    assert complete("train", "--learn") == ["--learning-rate", "--learning-rate-scaling"]
    assert complete("train", "--optimizer", "adam") == ["adam", "adamw"]


def test_a_table_without_test_split_trains_too(program):
    generator = np.random.default_rng(0)
    labels = np.array(["no", "yes"])[(np.arange(60) // 30)]
    features = generator.standard_normal((60, 3)) + 2 * (labels == "yes")[:, np.newaxis]
    lines = [
        ",".join(map(str, row)) + f",{label}" for row, label in zip(features, labels, strict=True)
    ]
    (program.folder / "t.csv").write_text("a,b,c,answer\n" + "\n".join(lines))
    made = program("convert", "t.csv", "t.h5", "--test", "0", "--validation", "0", "--standardize")
    assert made.returncode == 0, made.stderr
    done = program(
        "train", "--data", "t.h5", "--epochs", "30", *NAME, "-n", "2", "--learning-rate", "0.05"
    )
    assert done.returncode == 0, done.stderr
    assert program.summary("run")["test_accuracy"] is None
    assert "Epoch 30: train loss" in done.stdout
    told = program("evaluate", "results/run", "--split", "train", "--json")
    assert json.loads(told.stdout)["accuracy"] > 0.8
    refused = program("evaluate", "results/run")
    assert refused.returncode == 2
    assert "no rows in its test split" in refused.stderr


def test_a_single_process_loads_no_mpi(program, digits_file):
    code = (
        "import sys; sys.modules['mpi4py.MPI'] = None; sys.argv[1:] = "
        f"['train', '--data', {str(digits_file)!r}, '--epochs', '1', '--run-name', 'run']\n"
        "from lockstep.__main__ import main; main()"
    )
    done = program.run([program.python, "-c", code])
    assert done.returncode == 0, done.stderr
    assert program.summary("run")["num_epochs"] == 1


@pytest.mark.parametrize("ranks", [(), ("-n", "2")])
def test_a_terminal_gets_a_progress_bar(program, digits_file, ranks):
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 80))
    command = [program.python, "-m", "lockstep", "train", "--data", digits_file, *QUICK, *NAME,
               *ranks]  # fmt: skip
    with subprocess.Popen(
        list(map(str, command)), cwd=program.folder, stdout=follower, stderr=follower
    ) as job:
        os.close(follower)
        shown = read_all(leader)
    os.close(leader)
    assert job.returncode == 0, shown
    assert re.search(r"\rEpoch 2: +\d+%\|.*\| \d+/12 \[", shown)
    # The bar gives way to the epoch's line.
    assert re.search(r"\r *\rEpoch 2: 1?\d\d / 180", shown), repr(shown[:900])


def read_all(descriptor):
    parts = []
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:  # Linux's way to say that the other side is closed
            part = b""
        if not part:
            return b"".join(parts).decode()
        parts.append(part)
