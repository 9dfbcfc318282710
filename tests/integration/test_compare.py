"""`lockstep compare` on runs of the real program: same bits, and every way to lose them."""

import json
import re

import pytest

OPTIONS = {
    "global_batch_size": "128", "hidden_widths": "32,16", "virtual_ranks": "4", "epochs": "2",
    "trace": "true",
}  # fmt: skip
NUM_STEPS = 24

# Trains like `lockstep train`, but without plots and page, and possibly on damaged parameters.
TRAIN = """
import json, sys
from pathlib import Path
from lockstep.config import load_config
from lockstep.parallel.connect import connect
from lockstep.train.requests import Requests
from lockstep.train.run import resume_training, run_training
from lockstep.train.update import Update

name, options, goes_on, stop_after, damaged_step = json.loads(sys.argv[1])
take = Update.__call__

def damage(update, step, clock):
    notes = take(update, step, clock)
    if step + 1 == damaged_step:
        update._network.layers(update._parameters)[1][0, 0] += 1e-3
    return notes

Update.__call__ = damage
requests, results = Requests(stop_after), Path("results")
if goes_on:
    resume_training(results / name, {}, connect(), requests)
else:
    run_training(load_config(None, options), connect(), results, name, requests)
"""


@pytest.fixture
def train(program, digits_file):
    """Return a function that trains, or goes on with a run that has stopped."""

    def run(name, num_ranks=1, *, stop_after=None, damaged_step=None, blas="", **changes):
        options = OPTIONS | {"data": str(digits_file)} | changes
        goes_on = (program.folder / "results" / name).exists()
        task = json.dumps([name, options, goes_on, stop_after, damaged_step])
        environment = {"OPENBLAS_CORETYPE": blas} if blas else {}
        done = program.on_ranks(num_ranks, "-c", TRAIN, task, **environment)
        assert done.returncode == 0, done.stderr
        return program.folder / "results" / name

    return run


@pytest.fixture
def compare(program):
    """Return a function that runs `lockstep compare`: exit code, first line, other lines."""

    def run(a, b):
        told = program("compare", a, b)
        assert told.stderr == ""
        print(told.stdout)
        verdict, *rows = told.stdout.splitlines()
        return told.returncode, verdict, rows

    return run


def facts_of(run):
    return json.loads((run / "run.json").read_text())


def test_other_ranks_give_the_same_bits(program, digits_file, compare):
    options = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
    for ranks in ("1", "3"):
        done = program("train", "--data", digits_file, *options, "-n", ranks, "--run-name", ranks)
        assert done.returncode == 0, done.stderr
    code, verdict, rows = compare("results/1", "results/3")
    assert code == 0
    digest = program.summary("1")["weights_sha256"]
    assert verdict == (
        f"The runs are the same, bit for bit: all 24 steps, weights_sha256 {digest[:16]}…"
    )
    assert rows[:2] == [
        "  runs      1 | 3",
        "  compared  metrics of epochs 1 to 2, traces of steps 1 to 24, final weights and scores",
    ]
    assert rows[2].startswith("  harmless  ranks 1 | 3, ")
    assert len(rows) == 3


def test_another_seed_is_another_setting(train, compare):
    code, verdict, _ = compare(train("one"), train("two", seed="1"))
    assert code == 1
    assert verdict == "The runs differ in their settings: seed 0 | 1"


def test_other_blas_kernels_are_the_likely_cause(train, compare):
    one, two = train("one", blas="Haswell"), train("two", blas="Sandybridge")
    if facts_of(one)["kernels"] == facts_of(two)["kernels"]:
        pytest.skip("NumPy's BLAS has but one set of kernels here")
    code, verdict, rows = compare(one, two)
    assert code == 1
    assert verdict.startswith("The runs differ: gradient of layers 1, 2, 3, first at step 1 of")
    assert verdict.endswith("; likely cause: BLAS kernel")
    assert any(re.search(r"Haswell.* \| openblas.*Sandybridge", row) for row in rows)


def test_an_altered_trace_is_found(train, compare):
    one, two = train("one"), train("two")
    lines = [json.loads(line) for line in (two / "trace.jsonl").read_text().splitlines()]
    assert len(lines) == NUM_STEPS
    lines[16]["gradient"][1] = "0" * 16
    (two / "trace.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, verdict, rows = compare(one, two)
    assert code == 1
    assert verdict == (
        "The runs differ: gradient of layer 2, first at step 17 of epoch 2, "
        "with the same final weights"
    )
    assert "  same until    step 16" in rows


def test_only_one_run_is_traced(train, compare):
    one, two = train("one"), train("two", trace="false")
    code, verdict, rows = compare(one, two)
    assert code == 0
    assert "bit for bit" in verdict
    assert rows[1] == "  compared  metrics of epochs 1 to 2, final weights and scores"
    assert rows[2] == "  harmless  trace True | False"

    damaged = train("damaged", damaged_step=17, trace="false")
    code, verdict, rows = compare(one, damaged)
    assert code == 1
    assert verdict.endswith("val_loss, first in epoch 2")
    assert "  same until    step 12; it came about in steps 13 to 24" in rows
    assert any("--trace true" in row for row in rows)


def test_a_run_that_went_on_elsewhere_has_the_same_bits(train, compare):
    whole = train("whole")
    stopped = train("stopped", 2, stop_after=7)
    code, verdict, rows = compare(whole, stopped)
    assert code == 0
    assert verdict == "The runs are the same as far as both have come: up to step 7"
    assert "  unfinished  stopped" in rows

    train("stopped", 3, stop_after=18)
    train("stopped", 1)
    assert [session["step"] for session in facts_of(stopped)["resumed"]] == [7, 18]
    code, verdict, rows = compare(whole, stopped)
    assert code == 0
    assert verdict.startswith("The runs are the same, bit for bit: all 24 steps, ")
    assert "traces of steps 1 to 24" in rows[1]
    assert rows[2].startswith("  harmless  ranks")
    assert len(rows[2]) < 100


def test_damaged_parameters_are_named(train, compare):
    code, verdict, rows = compare(train("one"), train("two", damaged_step=7))
    assert code == 1
    assert verdict == "The runs differ: parameters of layer 2, first at step 7 of epoch 1"
    assert "  same until    step 6" in rows
    assert "  difference    the same rows and gradient give other parameters" in rows


def test_what_is_no_run_is_told_in_one_message(program, train):
    one = train("one", epochs="1")
    told = program("compare", one, program.folder)
    assert told.returncode == 2
    assert told.stdout == ""
    (message,) = told.stderr.splitlines()
    assert message.startswith(f"Error: {program.folder} is no run folder: it holds no config.toml.")
