"""The estimate of memory, by hand, by the arrays themselves, and by the peak of a training."""

import json
import subprocess
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from lockstep.bench.made_up import write_made_up
from lockstep.config import FIELDS, Config, to_toml
from lockstep.data.dataset_file import DatasetFile
from lockstep.nn.mlp import MLP, Workspace
from lockstep.nn.normalization import BatchNormalization, LayerNormalization
from lockstep.parallel.tree import Node, block, covering_nodes
from lockstep.train.footprint import _Estimate, _num_subtotals, estimate, numbers_per_sample
from lockstep.train.run import resolve

MB = 10**6
NUM_ROWS = 1024


@pytest.fixture(scope="module")
def dataset_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "made-up.h5"
    write_made_up(path, NUM_ROWS)
    return path


@pytest.fixture(scope="module")
def info(dataset_path):
    with DatasetFile.open(dataset_path) as dataset:
        return dataset.info


def configuration(hidden_widths=(100,), **changes):
    values = {
        "hidden_widths": hidden_widths, "optimizer": "sgd", "schedule": "constant",
        "learning_rate": 1e-4, "virtual_ranks": 1, "global_batch_size": 64, "epochs": 3, **changes,
    }  # fmt: skip
    sections = {info.section: {} for info in FIELDS.values()}
    for name, value in values.items():
        sections[FIELDS[name].section][name] = value
    config = Config()
    return replace(
        config,
        **{name: replace(getattr(config, name), **own) for name, own in sections.items()},
    )


def parts_of(info, hosts=("a",), rank=0, is_resumed=False, **changes):
    config = resolve(configuration(**changes), len(hosts))
    return estimate(config, info, hosts, rank, is_resumed=is_resumed).parts


def buffers_of(workspace):
    """Return all memory that a workspace's arrays lie in."""

    def arrays(value):
        if isinstance(value, np.ndarray):
            yield value
        elif isinstance(value, list):
            for each in value:
                yield from arrays(each)
        elif isinstance(value, BatchNormalization | LayerNormalization):
            yield from arrays(list(vars(value).values()))

    found = {}
    for array in arrays(list(vars(workspace).values())):
        base = array
        while base.base is not None:
            base = base.base
        found[id(base)] = base
    return found.values()


@pytest.mark.parametrize("normalization", ["none", "batch", "layer"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("hidden", [(), (7,), (7, 13)])
def test_a_workspace_has_so_many_numbers(activation, hidden, normalization):
    network = MLP((20, *hidden, 3), activation, "cross_entropy", normalization)
    buffers = buffers_of(Workspace(network, 2, 5, np.float32))
    labels, numbers = 2 * 5, 2 * 5 * numbers_per_sample(network)
    # And the numbers of the classes; of normalization, four for each unit, or its share in a mean,
    # and ones for a sum.
    per_unit = {"none": 0, "batch": 2 * 4, "layer": 1}[normalization]
    few = 3 + sum(per_unit * width + 5 * (per_unit > 0) for width in hidden)
    assert sum(buffer.nbytes for buffer in buffers) == 4 * (labels + numbers + few)


@pytest.mark.parametrize("num_virtual_ranks", [1, 2, 5, 6, 8, 12, 100])
def test_subtotals_are_those_of_the_tree(num_virtual_ranks):
    for num_ranks in range(1, num_virtual_ranks + 1):
        for rank in range(num_ranks):
            own = block(rank, num_ranks, num_virtual_ranks)
            expected = len(covering_nodes(own, num_virtual_ranks))
            assert _num_subtotals(own, Node(0, num_virtual_ranks)) == expected


def test_one_rank_by_hand(info):
    # 784-100-10 has 79,510 parameters of four bytes, of which 78,500 are the first layer's.
    vector = 4 * 79_510
    assert parts_of(info, optimizer="adamw", virtual_ranks=4, dtype="float32") == {
        "parameters": vector,
        # Bytes as they are stored, the ones, the label, its place, and what sorting takes.
        "samples": NUM_ROWS * (784 + 1 + 4 + 8 + 20),
        # Inputs and ones; activation, scratch and delta; four of the classes; loss; label; bytes.
        "activations": 64 * (4 * (785 + 3 * 101 + 4 * 10 + 1) + 4 + 785),
        "virtual ranks": 4 * 500,
        "gradients": vector + 4 * 4 * 78_500,
        "optimizer state": 2 * vector,
        "best parameters": vector,
        "copy for the checkpoint": 3 * vector,
    }


def test_large_initial_weights_are_drawn_in_more_than_the_training_takes(info):
    parts = parts_of(info, tested_weights="last", hidden_widths=(1000, 2000))
    # All but the first layer's 785,000 are unwritten when the second's 2,002,000 are drawn.
    assert parts["parameters"] == 4 * 2_807_010
    assert parts["drawing the initial weights"] == 16 * 2_002_000 - 4 * (2_002_000 + 20_010)
    assert "gradients" not in parts


def test_a_resumed_run_holds_its_checkpoint(info):
    parts = parts_of(info, is_resumed=True, optimizer="adamw")
    assert parts["the checkpoint to go on from"] == 4 * parts["parameters"]


def test_whole_gradients_are_copied_to_be_clipped(info):
    parts = parts_of(info, clip_norm=1.0, l2=1e-4)
    # The gradient, and the penalty of the first layer.
    assert parts["penalty and clipping"] == 4 * 79_510 + 4 * 78_500
    # Nor is anything left out before all of it has been looked at.
    assert parts_of(info, on_nonfinite="skip")["penalty and clipping"] == 4 * 79_510


def test_what_regularization_takes_by_hand(info):
    plain = parts_of(info, hidden_widths=(100, 50))
    parts = parts_of(
        info, hidden_widths=(100, 50), dropout=(0.0, 0.5), input_dropout=0.1, averaging="last",
        accumulation=2, virtual_ranks=4,
    )  # fmt: skip
    # The mask and what it leaves over of the second hidden layer, and the mask of the inputs.
    assert parts["activations"] == plain["activations"] // 2 + 32 * 4 * (2 * 51 + 785)
    # Of the features, which are more: 16 bits for each number of 8 samples.
    assert parts["drawing of masks"] == 8 * 2 * 784
    assert parts["average of the weights"] == parts["parameters"]
    vector = parts["parameters"]
    assert parts["gradients"] == vector + 4 * 4 * 78_500 + 4 * vector
    assert parts["copy for the checkpoint"] == 2 * vector


def test_rows_beyond_the_budget_are_read_in_two_blocks(info):
    parts = parts_of(info, memory_budget_mb=0.5, virtual_ranks=2)
    # Room for 612 rows of 817 bytes, so for 4 of 16 steps in each of two blocks.
    assert parts["samples"] == 2 * 4 * 64 * 817


def test_ranks_of_two_hosts(info):
    # Three ranks run 2 virtual ranks of 6 each: of the tree's nodes, (0, 1), (2, 3) and (4, 5).
    hosts, options = ("a", "a", "b"), {"virtual_ranks": 6, "optimizer": "adamw"}
    vector, leaves = 4 * 79_510, 2 * 4 * 78_500
    ranks = [parts_of(info, hosts, rank, **options) for rank in range(3)]
    # The first rank of each host counts the sum; all send to others, and receive, all of it.
    own = [(num + 2) * vector + leaves for num in (2, 1, 2)]
    assert [parts["gradients"] for parts in ranks] == own
    assert [parts["samples"] for parts in ranks] == [817 * -(-NUM_ROWS // 3)] * 3
    # The test of the sum takes more than what comes after it.
    assert all(parts["testing the sum of gradients"] == 28 * 79_510 for parts in ranks)


def test_ranks_other_than_the_root_keep_a_part_of_the_state(info):
    config = resolve(configuration(optimizer="adamw"), 1)
    config = replace(config, training=replace(config.training, virtual_ranks=4))
    vector = 4 * 79_510
    root, other = (
        _Estimate(config, info, ("a",) * 4, rank, is_resumed=False).training() for rank in (0, 3)
    )
    names = ("gradients", "optimizer state", "best parameters", "copy for the checkpoint")
    assert [root[name] / vector for name in names] == [2, 2, 1, 3]
    assert [other[name] / vector for name in names] == [1, 0.5, 2, 0]


def test_absurd_sizes_are_estimated_without_making_anything(info):
    tracemalloc.start()
    widths = parts_of(info, hidden_widths=(1_000_000,) * 2)
    shards = parts_of(info, ("a",) * 3, 1, virtual_ranks=10**9, global_batch_size=10**9)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert widths["parameters"] == 4 * (785_000_000 + 1_000_001_000_000 + 10_000_010)
    assert shards["virtual ranks"] == 500 * 10**9
    assert peak < MB


@pytest.mark.parametrize(
    ("hidden_widths", "num_steps", "options"),
    [
        ((2500, 2500), 4, {"optimizer": "adamw", "virtual_ranks": 4, "global_batch_size": 256}),
        ((5000,), 1, {"global_batch_size": NUM_ROWS, "activation": "gelu"}),
        (
            (5000, 2000),
            1,
            {
                "global_batch_size": NUM_ROWS,
                "dropout": (0.5,),
                "normalization": "batch",
                "averaging": "exponential",
                "input_dropout": 0.2,
                "optimizer": "lamb",
            },
        ),
        ((2500, 2500), 1, {"global_batch_size": NUM_ROWS, "accumulation": 4, "max_norm": 1.0}),
    ],
)
def test_the_estimate_is_what_a_training_takes(
    info, dataset_path, tmp_path, hidden_widths, num_steps, options
):
    config = configuration(hidden_widths, data=str(dataset_path), **options)
    (tmp_path / "config.toml").write_text(to_toml(config))
    # An epoch: then there are best parameters, and a checkpoint that is written.
    command = ["-m", "lockstep.bench.memory_child", "config.toml", str(num_steps), "results"]
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        check=True,
    )  # fmt: skip
    use = json.loads(done.stdout.splitlines()[-1])
    taken = use["peak_bytes"] - use["imports_bytes"]
    estimated = estimate(resolve(config, 1), info, ["a"], 0).num_bytes
    assert estimated > 100 * MB
    # Libraries have some memory of their own.
    assert -0.15 * estimated <= taken - estimated <= 0.15 * estimated + 20 * MB
