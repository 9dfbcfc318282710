"""Data that don't fit in memory: the same bits on any number of ranks, fitting or not."""

import json
from pathlib import Path

import numpy as np
import pytest

from lockstep.config import load_config
from lockstep.data.convert import ConvertOptions, convert
from lockstep.data.shards import Sharding
from lockstep.train.blueprint import memory_budget
from lockstep.train.run import open_dataset

PROGRAMS = Path(__file__).parent / "programs"
# What the digits take in memory is 0.17 MB, of which the training rows have 0.14.
BUDGET = "0.05"


@pytest.fixture(scope="module")
def measured_file(tmp_path_factory):
    """Rows that are kept scaled; the last step has one, so most virtual ranks have none in it."""
    folder = tmp_path_factory.mktemp("measured")
    generator = np.random.default_rng(0)
    y = np.arange(361) % 3
    x = generator.standard_normal((361, 5)) * [1, 10, 100, 1, 1] + y[:, np.newaxis]
    np.savez(folder / "m.npz", x=x, y=y)
    options = ConvertOptions(validation=30, test=30, standardize=True)
    convert(str(folder / "m.npz"), folder / "m.h5", options)
    return folder / "m.h5"


@pytest.fixture(scope="module")
def configurations(digits_file, measured_file):
    digits = {"data": str(digits_file), "memory_budget_mb": BUDGET, "epochs": "2"}
    return {
        "even": digits | {"virtual_ranks": "4", "global_batch_size": "32"},
        "ragged": digits | {
            "memory_budget_mb": "0.065", "virtual_ranks": "3", "global_batch_size": "37",
            "dtype": "float64",
            "optimizer": "nesterov", "learning_rate": "0.02", "hidden_widths": "17",
        },
        "scaled": {
            "data": str(measured_file), "memory_budget_mb": "0.009", "epochs": "3",
            "virtual_ranks": "4", "global_batch_size": "10", "hidden_widths": "6",
            "optimizer": "adam", "patience": "2",
        },
    }  # fmt: skip


def test_the_configurations_fit_on_some_numbers_of_ranks_only(configurations):
    for options in configurations.values():
        config = load_config(None, options)
        training = config.training
        with open_dataset(config) as dataset:
            num_rows = dataset.info.num_samples["train"]
            sharding = Sharding(num_rows, training.global_batch_size, training.virtual_ranks)
            budget = memory_budget(config, dataset)
            assert budget.blocks("train", sharding).num_blocks > 3
            assert not budget.fits("train", num_rows)
            assert not budget.fits("train", num_rows // 2)
            assert budget.fits("train", max(sharding.shard_sizes))


def train_all(program, num_ranks, configurations, name="run"):
    results = program.folder / f"{name}-on-{num_ranks}"
    done = program.on_ranks(
        num_ranks, PROGRAMS / "train_all.py", results, json.dumps(configurations)
    )
    assert done.returncode == 0, done.stderr
    found = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            found |= json.loads(line)
    return found


@pytest.mark.timeout(300)
def test_the_bits_depend_neither_on_the_ranks_nor_on_what_fits(program, configurations):
    alone = train_all(program, 1, configurations)
    assert list(alone) == list(configurations)
    for num_ranks in (2, 3):
        assert train_all(program, num_ranks, configurations) == alone, num_ranks
    whole = {name: options | {"memory_budget_mb": "1"} for name, options in configurations.items()}
    others = train_all(program, 1, whole, "whole")
    for name, run in alone.items():
        assert run["weights_sha256"] != others[name]["weights_sha256"]


@pytest.mark.timeout(300)
def test_sessions_that_stop_in_mid_epoch_on_changing_ranks_leave_no_trace(program, digits_file):
    options = {
        "data": str(digits_file), "memory_budget_mb": BUDGET, "epochs": "3",
        "virtual_ranks": "4", "global_batch_size": "37", "hidden_widths": "19", "trace": "true",
    }  # fmt: skip
    program.timeout_s = 290
    done = program.on_ranks(3, PROGRAMS / "chain.py", "results", 30, 2, json.dumps(options))
    assert done.returncode == 0, done.stderr
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert set(found["num_ranks"]) == {1, 2, 3}
    assert found["chain"] == found["whole"]
    traces = [program.folder / "results" / run / "trace.jsonl" for run in ("whole", "chain")]
    assert traces[0].read_text() == traces[1].read_text()


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_rank_that_can_not_read_on_ends_all_with_one_message(program, digits_file, num_ranks):
    done = program.on_ranks(
        num_ranks, PROGRAMS / "unreadable.py", 9, "train", "--data", digits_file,
        "--memory-budget-mb", BUDGET, "--virtual-ranks", "4", "--run-name", "run",
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, done.stderr
    assert f"{digits_file} is damaged: can't read train/x" in errors[0]
    # In the middle of the first epoch.
    assert not (program.folder / "results/run/metrics.jsonl").exists()
