"""The comparison of numbers of ranks as a user runs it; what it measures is not judged here."""

import importlib.util
import json
from statistics import median

import pytest

TINY = ("bench", "scaling", "--tiny", "--rounds", "2", "--steps", "3", "--out", "figures")
HAS_TORCH = importlib.util.find_spec("torch") is not None
PEER = "PyTorch-DDP"

# Trains with PyTorch on all ranks and with Lockstep, both with the same rows in every batch, and
# prints how far apart their parameters are, as a part of what the steps have changed.
SAME_STEPS = """
import numpy as np
from itertools import count
from dataclasses import replace
from lockstep.bench.case import Case
from lockstep.bench.made_up import made_up_dataset
from lockstep.bench.peers.task import Samples
from lockstep.bench.scaling import PEER, points_of, share_of
from lockstep.parallel.connect import connect
from lockstep.streams import Purpose, philox
from lockstep.train.observers import Observer
from lockstep.train.requests import Requests
from lockstep.train.trainer import Trainer

ranks = connect()
with made_up_dataset(1024) as dataset, PEER.load()(ranks) as processes:
    point = points_of(Case((12, 11), 256), [2])[1]
    task = share_of(point.config, dataset, Samples.read(dataset, "train"), ranks.rank)
    keys = (
        philox(0, Purpose.SAMPLE_ORDER, epoch, ranks.rank, 0).random_raw(len(task.samples.y))
        for epoch in count(1)
    )
    orders = (np.argsort(numbers, kind="stable") for numbers in keys)
    task = replace(task, next_order=lambda: next(orders))
    processes.prepare(2)
    training = processes.start(task, 2)
    training.train(8)
    trainer = Trainer(point.config, dataset, ranks, Observer(), Requests(stop_after=8))
    trainer.train()
    own = trainer.network.layers(trainer.parameters)
    layers = zip(task.initial_layers(), training.layers(), own, strict=True)
    differences = [
        np.abs(layer - expected).max() / np.abs(expected - start).max()
        for start, layer, expected in layers
    ]
    gathered = ranks.gather_rows(np.array(differences))
    if ranks.rank == 0:
        print(*gathered)
"""


def figures(program):
    folder = program.folder / "figures"
    assert {path.name for path in folder.iterdir()} == {"scaling.json", "scaling.md", "scaling.png"}
    return json.loads((folder / "scaling.json").read_text())


def test_strong_and_weak_scaling_on_ranks_that_the_command_starts(program):
    done = program(*TINY)
    assert done.returncode == 0, done.stderr
    told = figures(program)
    assert [
        (one["network"], one["scaling"], one["num_ranks"], one["global_batch_size"])
        for one in told["measurements"]
    ] == [
        ("784-8-10", "both", 1, 32), ("784-8-10", "strong", 2, 32), ("784-8-10", "weak", 2, 64),
        ("784-16-8-10", "both", 1, 64), ("784-16-8-10", "strong", 2, 64),
        ("784-16-8-10", "weak", 2, 128),
    ]  # fmt: skip
    for one in told["measurements"]:
        check(one)
        assert (PEER in one["step_s"]) == HAS_TORCH
        assert (PEER in one["absent"]) != HAS_TORCH
    assert (f"Without {PEER}: torch is not installed" in done.stdout) != HAS_TORCH
    assert told["environment"]["command"] == (
        "lockstep bench scaling --ranks=1,2 --rounds=2 --steps=3 --out=figures --tiny"
    )
    # The root alone tells the tables.
    assert done.stdout.count("compute, µs") == 1
    assert "threads per rank 1" in done.stdout


def check(one):
    """Check the arithmetic by the rounds that are told."""
    work = one["num_ranks"] if one["scaling"] == "weak" else 1
    for contestant, step_s in one["step_s"].items():
        assert len(step_s) == 2
        assert min(step_s) > 0
        expected = [
            work * a / b for a, b in zip(one["one_rank_step_s"][contestant], step_s, strict=True)
        ]
        assert one["speed_up"][contestant]["rounds"] == pytest.approx(expected)
        assert one["speed_up"][contestant]["median"] == pytest.approx(median(expected))
        ratios = [a / b for a, b in zip(step_s, one["step_s"]["Lockstep"], strict=True)]
        assert one["times_as_long_as_lockstep"][contestant]["rounds"] == pytest.approx(ratios)
    # A turn of Lockstep's has whole epochs of the 8,192 rows.
    assert one["num_steps"]["Lockstep"] == 8192 / one["global_batch_size"]
    for number, step_s in enumerate(one["step_s"]["Lockstep"]):
        by_rank = [
            sum(parts)
            for parts in zip(*(rounds[number] for rounds in one["phase_s"].values()), strict=True)
        ]
        assert len(by_rank) == one["num_ranks"]
        assert max(by_rank) == pytest.approx(step_s)
        assert min(one["phase_s"]["wait"][number]) >= 0


def test_ranks_of_a_launcher_that_are_not_needed_wait(program):
    done = program.on_ranks(3, "-m", "lockstep", *TINY, "--ranks", "2")
    assert done.returncode == 0, done.stderr
    # One rank is what the others are compared with.
    assert [one["num_ranks"] for one in figures(program)["measurements"]] == [1, 2, 2, 1, 2, 2]


@pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed, nor needed")
def test_processes_of_pytorch_take_the_same_steps(program):
    (program.folder / "same_steps.py").write_text(SAME_STEPS)
    done = program.on_ranks(2, "same_steps.py")
    assert done.returncode == 0, done.stderr
    differences = [float(line) for line in done.stdout.split()]
    assert len(differences) == 2 * 3
    # What differs by rounding alone.
    assert max(differences) < 1e-3


def test_what_cannot_be_measured_is_told_before_the_measuring(program):
    done = program.on_ranks(2, "-m", "lockstep", *TINY, "--ranks", "4")
    assert done.stderr.count("--ranks 4 needs 4 ranks, but the launcher has started 2") == 1
    assert not (program.folder / "figures").exists()
    (program.folder / "figures").write_text("a file")
    done = program(*TINY, "--ranks", "1")
    assert done.returncode == 2
    assert "Can't make the folder figures" in done.stderr
