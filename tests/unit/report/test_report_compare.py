import copy
import json

import pytest

from lockstep.errors import UserError
from lockstep.report.compare import compare, comparison_text
from lockstep.storage.run_folder import RunFolder, append_json_line, write_json

STEPS_PER_EPOCH = 10
NUM_LAYERS = 3
CONFIG = {
    "data": {"data": "data/made-up.h5"},
    "network": {"hidden_widths": [16, 8], "activation": "relu"},
    "optimization": {"learning_rate": 0.01, "schedule": "constant"},
    "training": {"epochs": 4, "seed": 0, "virtual_ranks": 4, "reduction": "ordered", "patience": 0},
}
FACTS = {
    "started": "2025-01-02T03:04:05+00:00",
    "dataset": {"content_sha256": "ab" * 32},
    "world_size": 2,
    "hosts": {"alpha": 2},
    "versions": {"lockstep": "0.1.0", "python": "3.11.9", "numpy": "2.3.0", "mpi": "MPICH 4.3"},
    "blas": {
        "library": "openblas",
        "version": "0.3.31",
        "kernel": "SkylakeX",
        "threads": 1,
        "pinned": {"OPENBLAS_NUM_THREADS": "1"},
    },
    "machine": {"system": "Linux x86_64", "processor": "made up", "cores": 2, "cpu_flags": "avx"},
    "kernels": {"openblas 0.3.31 SkylakeX": 2},
}
HASWELL = {
    "blas": FACTS["blas"] | {"kernel": "Haswell"},
    "kernels": {"openblas 0.3.31 Haswell": 2},
}


def config_text(changes):
    sections = {name: fields | changes.get(name, {}) for name, fields in CONFIG.items()}
    # Numbers, texts in double quotes and lists of numbers look the same in JSON and in TOML.
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in fields.items())
        for name, fields in sections.items()
    )


def epoch_line(epoch, odd=""):
    return {
        "epoch": epoch,
        "step": STEPS_PER_EPOCH * epoch,
        "train_loss": 1 / epoch + (1e-9 if odd else 0),
        "val_loss": 2 / epoch,
        "lr": 0.01,
        "epoch_s": id(object()) * 1e-9,
    }


def step_line(step, odd=""):
    """Make up a step; `odd` names the first of its digests that is another one."""
    order = ["batch", "gradient", "parameters"]
    others = order[order.index(odd) :] if odd else []
    line = {"step": step, "epoch": (step - 1) // STEPS_PER_EPOCH + 1}
    line["batch"] = f"{step}b" if "batch" in others else f"{step}a"
    for key in order[1:]:
        layers = [f"{step}{key}{layer}" for layer in range(NUM_LAYERS)]
        if key in others:
            layers[1] += "odd"
        line[key] = layers
    return line


@pytest.fixture
def make_run(tmp_path):
    """Return a function that writes the folder of a run with made-up results."""

    def make(
        name,
        *,
        num_epochs=4,
        traced=(),
        odd_step=None,
        odd_kind="gradient",
        odd_epoch=None,
        settings=None,
        facts=None,
        summary=None,
        is_finished=True,
    ):
        folder = RunFolder.create(tmp_path / name)
        folder.config.write_text(config_text(settings or {}))
        write_json(folder.run, copy.deepcopy(FACTS) | (facts or {}))
        for epoch in range(1, num_epochs + 1):
            is_odd = odd_epoch is not None and epoch >= odd_epoch
            append_json_line(folder.metrics, epoch_line(epoch, is_odd))
        for step in traced:
            kind = ""
            if odd_step is not None and step >= odd_step:
                kind = odd_kind if step == odd_step else "gradient"
            append_json_line(folder.path / "trace.jsonl", step_line(step, kind))
        if is_finished:
            scores = {"test_accuracy": 0.9, "confusion_matrix": [[9, 1], [1, 9]]}
            is_odd = odd_step is not None or odd_epoch is not None
            own = {
                "weights_sha256": ("cd" if is_odd else "ef") * 32,
                "num_steps": STEPS_PER_EPOCH * num_epochs,
                "num_epochs": num_epochs,
                "wall_time_s": id(folder) * 1e-9,
            }
            write_json(folder.summary, scores | own | (summary or {}))
        return folder

    return make


def told(a, b):
    """Compare, and return the comparison, its first line and its whole text."""
    comparison = compare(a, b)
    text = comparison_text(comparison)
    return comparison, text.splitlines()[0], text


ALL = range(1, 41)


def test_identical_runs(make_run):
    comparison, verdict, text = told(make_run("one", traced=ALL), make_run("two", traced=ALL))
    assert comparison.is_same
    assert verdict == (
        "The runs are the same, bit for bit: 40 steps, weights_sha256 efefefefefefefef…"
    )
    assert "metrics of 4 epochs, traces of 40 steps (1 to 40), final weights and scores" in text
    assert "environment" not in text


def test_another_number_of_ranks_is_no_difference(make_run):
    more = {
        "world_size": 4,
        "hosts": {"beta": 2, "gamma": 2},
        "kernels": {"openblas 0.3.31 SkylakeX": 4},
    }
    comparison, verdict, text = told(make_run("two"), make_run("four", facts=more))
    assert comparison.is_same
    assert "bit for bit" in verdict
    assert "differ, but don't change the bits: hosts alpha | beta (2), gamma (2); ranks 2 | 4" in (
        text
    )
    assert "environment" not in text


def test_other_data_order(make_run):
    odd = make_run("two", traced=ALL, odd_step=17, odd_kind="batch", facts=HASWELL)
    comparison, verdict, text = told(make_run("one", traced=ALL), odd)
    assert not comparison.is_same
    # No BLAS kernel changes the order of the rows.
    assert verdict == "The runs differ: data order, first at step 17 of epoch 2"
    assert "the steps train on other rows" in text
    assert "BLAS kernel  SkylakeX | Haswell" in text


def test_other_gradient_with_another_kernel(make_run):
    odd = make_run("two", traced=ALL, odd_step=17, facts=HASWELL)
    comparison, verdict, text = told(make_run("one", traced=ALL), odd)
    assert not comparison.is_same
    assert verdict == (
        "The runs differ: gradient, first at step 17 of epoch 2, layer 2; "
        "environment differs: BLAS kernel SkylakeX | Haswell"
    )
    assert "step 16: rows, gradients and parameters" in text
    assert "the environment (see below)" in text
    assert "may be older" not in text
    assert comparison.first.layers == (2,)


def test_other_gradient_in_the_same_environment(make_run):
    odd = make_run("two", traced=ALL, odd_step=17)
    _, verdict, text = told(make_run("one", traced=ALL), odd)
    assert verdict == "The runs differ: gradient, first at step 17 of epoch 2, layer 2"
    assert "suspect a machine's memory" in text


def test_other_gradient_in_the_very_first_step(make_run):
    odd = make_run("two", traced=ALL, odd_step=1)
    _, verdict, text = told(make_run("one", traced=ALL), odd)
    assert verdict == "The runs differ: gradient, first at step 1 of epoch 1, layer 2"
    assert "the initial weights or the kernels" in text
    assert "may be older" not in text
    assert "nothing, it is the first step" in text


def test_other_parameters(make_run):
    odd = make_run("two", traced=ALL, odd_step=17, odd_kind="parameters", facts=HASWELL)
    comparison, verdict, text = told(make_run("one", traced=ALL), odd)
    assert verdict == "The runs differ: parameters, first at step 17 of epoch 2, layer 2"
    assert "the optimizer" in text
    assert comparison.causes == ()


def test_traces_that_differ_where_they_begin(make_run):
    odd = make_run("two", traced=range(25, 41), odd_step=25, odd_epoch=3)
    comparison, verdict, text = told(make_run("one", traced=ALL), odd)
    assert verdict.startswith("The runs differ: gradient, first at step 25 of epoch 3")
    # The metrics of the first two epochs are the same.
    assert "may be older" in text
    assert "anywhere in steps 21 to 25" in text
    assert "--trace true" in text
    assert comparison.first.steps == (21, 25)


def test_a_gap_between_two_traced_parts(make_run):
    odd = make_run("two", traced=[*range(1, 6), *range(25, 41)], odd_step=25, odd_epoch=2)
    _, _, text = told(make_run("one", traced=ALL), odd)
    # Epoch 2 has other metrics: the difference is older than the traces that show it.
    assert "train_loss, first in epoch 2 (steps 11 to 20)" in text


def test_traces_that_overlap_and_agree(make_run):
    one, two = make_run("one", traced=range(1, 31)), make_run("two", traced=range(21, 41))
    comparison, _, text = told(one, two)
    assert comparison.is_same
    assert "traces of 10 steps (21 to 30)" in text


def test_a_trace_cut_off_in_the_middle_of_a_line(make_run):
    one = make_run("one", traced=ALL)
    two = make_run("two", num_epochs=2, traced=range(1, 24), is_finished=False)
    with (two.path / "trace.jsonl").open("a") as trace:
        trace.write('{"step": 24, "epo')
    comparison, verdict, text = told(one, two)
    assert comparison.is_same
    assert verdict == "The runs are the same as far as both have come: up to step 23 of epoch 3"
    assert "two has not finished." in text


def test_a_step_that_was_repeated_counts_as_it_was_last(make_run):
    one, two = make_run("one", traced=ALL), make_run("two", traced=[*range(1, 15)])
    for step in range(11, 41):
        append_json_line(two.path / "trace.jsonl", step_line(step))
    assert compare(one, two).is_same


@pytest.mark.parametrize("traced", [(), ALL])
def test_metrics_alone(make_run, traced):
    odd = make_run("two", odd_epoch=3, facts=HASWELL)
    comparison, verdict, text = told(make_run("one", traced=traced), odd)
    assert not comparison.is_same
    assert verdict == (
        "The runs differ: train_loss, first in epoch 3 (steps 21 to 30); "
        "environment differs: BLAS kernel SkylakeX | Haswell"
    )
    assert "step 20, the end of an epoch: its metrics" in text
    assert "--trace true" in text
    assert "lr" not in [field.name for field in comparison.first.fields]


def test_other_metrics_of_the_same_parameters(make_run):
    one, two = make_run("one", traced=ALL), make_run("two", traced=ALL, odd_epoch=3)
    comparison, verdict, _ = told(one, two)
    assert comparison.first.kind == "evaluation"
    assert verdict == (
        "The runs differ: train_loss of epoch 3, with the same parameters: the evaluation"
    )


def test_final_weights_alone(make_run):
    odd = make_run("two", summary={"weights_sha256": "12" * 32})
    comparison, verdict, text = told(make_run("one"), odd)
    assert not comparison.is_same
    assert verdict == "The runs differ: final weights, after the same metrics in 4 epochs"
    assert "weights_sha256 efefefefefefefef… | 1212121212121212…" in text


def test_scores_alone(make_run):
    odd = make_run("two", summary={"test_accuracy": 0.8, "confusion_matrix": [[8, 2], [1, 9]]})
    comparison, verdict, text = told(make_run("one"), odd)
    assert not comparison.is_same
    assert verdict == (
        "The runs differ: only test_accuracy, confusion_matrix, with the same weights"
    )
    assert "test_accuracy 0.9 | 0.8" in text
    assert "confusion_matrix other entries" in text


def test_an_unfinished_run(make_run):
    comparison, verdict, text = told(
        make_run("one"), make_run("two", num_epochs=2, is_finished=False)
    )
    assert comparison.is_same
    assert verdict == "The runs are the same as far as both have come: up to step 20 of epoch 2"
    assert "two has not finished." in text


def test_a_longer_run_begins_the_same(make_run):
    longer = make_run("two", num_epochs=6, settings={"training": {"epochs": 6}})
    comparison, verdict, text = told(make_run("one"), longer)
    assert comparison.is_same
    assert verdict.endswith("up to step 40 of epoch 4")
    assert "don't change the bits: training.epochs 4 | 6" in text
    assert "one ended after 4 epochs, two after 6." in text


def test_a_longer_run_has_another_schedule_that_ends(make_run):
    cosine = {"optimization": {"schedule": "cosine"}}
    one = make_run("one", settings=cosine)
    two = make_run("two", num_epochs=6, settings=cosine | {"training": {"epochs": 6}})
    comparison, verdict, _ = told(one, two)
    assert not comparison.is_same
    assert "training.epochs 4 | 6" in verdict
    assert "all that both have is the same" in verdict


def test_other_settings(make_run):
    other = {"optimization": {"learning_rate": 0.02}, "training": {"seed": 1}}
    odd = make_run("two", odd_epoch=1, settings=other, facts=HASWELL)
    comparison, verdict, text = told(make_run("one"), odd)
    assert not comparison.is_same
    assert verdict == (
        "The runs differ: they are different trainings, "
        "optimization.learning_rate 0.01 | 0.02 (and 1 more, see below)"
    )
    assert "training.seed: 0 | 1" in text
    assert "likely cause" not in text


def test_settings_that_change_no_bits(make_run):
    comparison, _, text = told(
        make_run("one"), make_run("two", settings={"training": {"patience": 9}})
    )
    assert comparison.is_same
    assert "don't change the bits: training.patience 0 | 9" in text


def test_settings_that_only_one_version_knows(make_run):
    comparison, _, text = told(
        make_run("one"), make_run("two", settings={"training": {"trace": 1, "new": 5}})
    )
    assert comparison.is_same
    assert "Only the configuration of two has training.trace = 1, training.new = 5." in text


def test_the_same_data_set_under_another_path(make_run):
    moved = {"data": {"data": "/elsewhere/made-up.h5"}}
    assert compare(make_run("one"), make_run("two", settings=moved)).is_same


def test_another_data_set_under_the_same_path(make_run):
    changed = {"dataset": {"content_sha256": "01" * 32}}
    comparison, verdict, _ = told(make_run("one"), make_run("two", odd_epoch=1, facts=changed))
    assert not comparison.is_same
    assert "dataset.content_sha256 abababababababab… | 0101010101010101…" in verdict


def test_a_session_with_another_kernel(make_run):
    sessions = [FACTS | {"step": 10}, FACTS | HASWELL | {"step": 20}]
    odd = make_run("two", traced=ALL, odd_step=21, facts={"resumed": sessions})
    _, verdict, _ = told(make_run("one", traced=ALL), odd)
    assert verdict.endswith(
        "environment differs: BLAS kernel SkylakeX | SkylakeX, after step 20 Haswell"
    )


def test_sessions_that_changed_at_other_steps(make_run):
    runs = [
        make_run(name, facts={"resumed": [FACTS | HASWELL | {"step": step}]})
        for name, step in (("one", 10), ("two", 20))
    ]
    (field,) = compare(*runs).environment
    assert field.values == "SkylakeX, after step 10 Haswell | SkylakeX, after step 20 Haswell"


def test_environment_is_told_of_runs_that_are_the_same(make_run):
    newer = {"versions": FACTS["versions"] | {"numpy": "2.4.0", "python": "3.12.1"}}
    comparison, _, text = told(make_run("one"), make_run("two", facts=newer))
    assert comparison.is_same
    assert "NumPy  2.3.0 | 2.4.0" in text
    assert "don't change the bits: Python 3.11.9 | 3.12.1" in text


def test_cpu_flags(make_run):
    flags = [f"flag{number:02}" for number in range(15)]
    newer = {"machine": FACTS["machine"] | {"cpu_flags": " ".join(["avx", *flags])}}
    _, _, text = told(make_run("one"), make_run("two", facts=newer))
    assert "CPU flags  only in one: none; only in two: flag00, " in text
    assert "flag11 and 3 more" in text


def test_flags_that_one_run_does_not_tell_are_no_difference(make_run):
    older = {"machine": {"system": "Linux x86_64"}}
    assert not compare(make_run("one"), make_run("two", facts=older)).environment


def test_pinned_kernels_and_threads(make_run):
    pinned = {"OPENBLAS_NUM_THREADS": "2", "OPENBLAS_L2_SIZE": "1048576"}
    other = {"blas": FACTS["blas"] | {"pinned": pinned}}
    _, _, text = told(make_run("one"), make_run("two", facts=other))
    assert "OPENBLAS_L2_SIZE  not set | 1048576" in text
    assert "don't change the bits: OPENBLAS_NUM_THREADS 1 | 2" in text


def test_ranks_with_different_kernels(make_run):
    mixed = {"kernels": {"openblas 0.3.31 SkylakeX": 1, "openblas 0.3.31 Haswell": 1}}
    odd = make_run("two", odd_epoch=1, facts=mixed)
    _, verdict, text = told(make_run("one"), odd)
    assert "BLAS kernels of the ranks openblas 0.3.31 SkylakeX | " in verdict
    assert "The ranks of two computed with different BLAS kernels" in text


def test_sums_that_are_left_to_mpi(make_run):
    left = {"training": {"reduction": "mpi"}}
    one = make_run("one", settings=left)
    two = make_run("two", settings=left, odd_epoch=1, facts={"world_size": 4})
    _, verdict, text = told(one, two)
    assert verdict.endswith("environment differs: ranks 2 | 4")
    assert "training.reduction = mpi" in text


def test_a_run_without_facts(make_run):
    one, two = make_run("one"), make_run("two", odd_epoch=2)
    two.run.unlink()
    _, verdict, text = told(one, two)
    assert verdict == "The runs differ: train_loss, first in epoch 2 (steps 11 to 20)"
    assert "two has no run.json, so its environment is unknown." in text


def test_runs_of_the_same_name_go_by_their_paths(make_run, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, two = make_run("a/run"), make_run("b/run")
    assert compare(one, two).names == (str(tmp_path / "a/run"), str(tmp_path / "b/run"))


def test_nothing_to_compare(make_run):
    one, two = make_run("one"), make_run("two", num_epochs=0, is_finished=False)
    with pytest.raises(UserError, match="nothing to compare yet"):
        compare(one, two)


def test_other_settings_before_the_first_epoch(make_run):
    other = {"training": {"seed": 1}}
    one, two = make_run("one"), make_run("two", num_epochs=0, settings=other, is_finished=False)
    comparison, verdict, text = told(one, two)
    assert not comparison.is_same
    assert verdict == "The runs differ: they are different trainings, training.seed 0 | 1"
    assert "nothing: no epoch or step in common" in text


@pytest.mark.parametrize("file", ["config.toml", "run.json", "metrics.jsonl", "trace.jsonl"])
def test_damaged_files_are_told(make_run, file):
    one, two = make_run("one", traced=ALL), make_run("two", traced=ALL)
    (two.path / file).write_text("{oh\n")
    with pytest.raises(UserError, match=rf"{file} is damaged"):
        compare(one, two)


def test_a_trace_of_other_objects_is_told(make_run):
    one, two = make_run("one", traced=ALL), make_run("two")
    (two.path / "trace.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(UserError, match=r"trace\.jsonl is damaged: a line isn't the object of a"):
        compare(one, two)
