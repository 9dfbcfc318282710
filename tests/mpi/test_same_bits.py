"""The promise: weights, optimizer state and metrics, bit for bit, on 1 to 8 ranks."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from lockstep.data.convert import ConvertOptions, convert

# Whatever else there is that may be switched on beside the rest.
EVERYTHING = {
    "accumulation": "2", "input_dropout": "0.1", "label_smoothing": "0.1", "l1": "0.0001",
    "max_norm": "1.5", "shift": "1", "rotation": "10", "zoom": "0.1", "shear": "10",
    "elastic_strength": "5", "elastic_smoothness": "2", "noise": "0.05", "erasing": "0.2",
}  # fmt: skip
PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    """Few rows, odd widths, a validation split of two rows: fewer samples than virtual ranks."""
    folder = tmp_path_factory.mktemp("tiny")
    generator = np.random.default_rng(0)
    y = np.arange(11) % 3
    x = generator.standard_normal((11, 5)).astype(np.float32) + y[:, np.newaxis]
    np.savez(folder / "tiny.npz", x=x, y=y)
    convert(
        str(folder / "tiny.npz"),
        folder / "tiny.h5",
        ConvertOptions(validation=2, test=2, standardize=True),
    )
    with h5py.File(folder / "tiny.h5") as file:
        assert len(file["train/x"]) == 7
    return folder / "tiny.h5"


@pytest.fixture(scope="module")
def configurations(digits_file, tiny_file):
    digits = {"data": str(digits_file), "epochs": "2", "virtual_ranks": "8"}
    return {
        "even": digits | {"global_batch_size": "32"},
        "original": digits | {
            "virtual_ranks": "6", "hidden_widths": "17,9", "activation": "sigmoid",
            "loss": "quadratic", "initializer": "standard_normal", "optimizer": "sgd",
            "learning_rate": "3", "schedule": "constant", "global_batch_size": "30",
        },
        # Batch and shards are uneven, the last step is short.
        "ragged": digits | {
            "virtual_ranks": "5", "hidden_widths": "33", "activation": "gelu",
            "global_batch_size": "37", "clip_norm": "0.5", "l2": "0.01",
        },
        "ragged, with a shared update": digits | {
            "hidden_widths": "33", "global_batch_size": "37", "l2": "0.01", "optimizer": "adam",
            "patience": "1",
        },
        "nesterov-float64": digits | {
            "virtual_ranks": "12", "hidden_widths": "21,13", "activation": "leaky_relu",
            "optimizer": "nesterov", "learning_rate": "0.02", "dtype": "float64",
            "global_batch_size": "100", "schedule": "one_cycle", "epochs": "1",
        },
        "adamw-float64": digits | {
            "virtual_ranks": "6", "dtype": "float64", "global_batch_size": "77", "epochs": "1",
            "trace": "true",
        },
        # The last part of an epoch has two samples for five virtual ranks.
        "all regularization": digits | EVERYTHING | {
            "virtual_ranks": "5", "hidden_widths": "33,20", "activation": "gelu",
            "global_batch_size": "70", "normalization": "batch", "dropout": "0.2,0.4",
            "averaging": "exponential", "l2": "0.01",
        },
        # Batch normalization of a shard of one sample.
        "tiny, with all regularization": EVERYTHING | {
            "data": str(tiny_file), "virtual_ranks": "4", "global_batch_size": "16",
            "epochs": "3", "optimizer": "adam", "hidden_widths": "4", "normalization": "batch",
            "dropout": "0.1", "averaging": "last", "averaging_epochs": "2", "shift": "0",
            "rotation": "0", "zoom": "0", "shear": "0", "elastic_strength": "0", "erasing": "0",
        },
        "layer normalization": digits | EVERYTHING | {
            "hidden_widths": "15,12", "global_batch_size": "48", "normalization": "layer",
            "dropout": "0.5", "averaging": "last", "optimizer": "lamb",
        },
        "lars": digits | EVERYTHING | {
            "hidden_widths": "15", "global_batch_size": "30", "optimizer": "lars",
            "virtual_ranks": "6", "learning_rate": "5", "learning_rate_scaling": "linear",
        },
        # One sample per virtual rank, where NumPy takes other routines than for matrices.
        "single-samples": digits | {
            "global_batch_size": "8", "activation": "tanh",
            "optimizer": "momentum", "learning_rate": "0.01", "epochs": "1",
        },
        # Fewer training rows than virtual ranks, so some shards are empty.
        "tiny": {
            "data": str(tiny_file), "virtual_ranks": "9", "global_batch_size": "9",
            "epochs": "3", "optimizer": "adam", "hidden_widths": "4", "patience": "1",
        },
        "tiny-softmax-regression": {
            "data": str(tiny_file), "virtual_ranks": "4", "global_batch_size": "5",
            "epochs": "2", "hidden_widths": "",
        },
    }  # fmt: skip


def train_all(program, num_ranks, configurations):
    script = PROGRAMS / "train_all.py"
    results = program.folder / f"on-{num_ranks}"
    done = program.on_ranks(num_ranks, script, results, json.dumps(configurations))
    assert done.returncode == 0, done.stderr
    found = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            found |= json.loads(line)
    return found


@pytest.mark.timeout(600)
def test_everything_is_the_same_on_any_number_of_ranks(program, configurations):
    alone = train_all(program, 1, configurations)
    assert list(alone) == list(configurations)
    assert len({run["weights_sha256"] for run in alone.values()}) == len(configurations)
    for num_ranks in range(2, 9):
        # More ranks than cores take their time, so only V = 8 goes all the way up.
        fitting = {
            name: options
            for name, options in configurations.items()
            if num_ranks <= (8 if options["virtual_ranks"] == "8" else 5)
            and num_ranks <= int(options["virtual_ranks"])
        }
        expected = {name: alone[name] for name in fitting}
        assert train_all(program, num_ranks, fitting) == expected, num_ranks


def test_replicas_are_equal_even_where_the_ranks_have_different_kernels(program, digits_file):
    # Each rank updates its own replica, so nothing in the update may depend on its BLAS.
    mpiexec = Path(program.python).with_name("mpiexec")
    rank = [program.python, PROGRAMS / "replicas.py", digits_file]
    done = program.run([
        mpiexec, "-n", "1", "env", "OPENBLAS_CORETYPE=Haswell", *rank,
        ":", "-n", "1", "env", "OPENBLAS_CORETYPE=Sandybridge", *rank,
    ], **program.mpi_settings)  # fmt: skip
    assert done.returncode == 0, done.stderr
    num_kernels, num_digests = done.stdout.split()
    assert num_digests == "1"
    if num_kernels == "1":
        pytest.skip("NumPy's BLAS has but one set of kernels here")


def test_the_mpi_librarys_sum_is_the_same_up_to_rounding(program, digits_file):
    options = {
        "data": str(digits_file), "epochs": "1", "virtual_ranks": "4", "dtype": "float64",
        "reduction": "mpi",
    }  # fmt: skip
    losses = [
        train_all(program, num_ranks, {"mpi": options})["mpi"]["metrics"][0]["val_loss"]
        for num_ranks in (1, 3)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
