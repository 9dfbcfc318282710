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
            append_json_line(folder.trace, step_line(step, kind))
        if is_finished:
            scores = {"test_accuracy": 0.9, "confusion_matrix": [[9, 1], [1, 9]]}
            is_odd = odd_step is not None or odd_epoch is not None
            own = {
                "weights_sha256": ("cd" if is_odd else "ef") * 32,
                "num_steps": STEPS_PER_EPOCH * num_epochs,
                "num_epochs": num_epochs,
                "stopped_early": False,
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
        "The runs are the same, bit for bit: all 40 steps, weights_sha256 efefefefefefefef…"
    )
    assert text.splitlines()[1:] == [
        "  runs      one | two",
        "  compared  metrics of epochs 1 to 4, traces of steps 1 to 40, final weights and scores",
    ]


def test_another_number_of_ranks_is_no_difference(make_run):
    more = {
        "world_size": 4,
        "hosts": {"beta": 2, "gamma": 2},
        "kernels": {"openblas 0.3.31 SkylakeX": 4},
    }
    comparison, verdict, text = told(make_run("two"), make_run("four", facts=more))
    assert comparison.is_same
    assert "bit for bit" in verdict
    assert text.endswith("  harmless  ranks 2 | 4, hosts")


def test_other_data_order(make_run):
    odd = make_run("two", traced=ALL, odd_step=17, odd_kind="batch", facts=HASWELL)
    comparison, verdict, text = told(make_run("one", traced=ALL), odd)
    assert not comparison.is_same
    # No BLAS kernel changes the order of the rows.
    assert verdict == "The runs differ: data order, first at step 17 of epoch 2"
    assert "the steps train on other rows" in text
    assert "environment   BLAS kernel openblas 0.3.31 SkylakeX | openblas 0.3.31 Haswell" in text


def test_other_gradient_with_another_kernel(make_run):
    odd = make_run("two", traced=ALL, odd_step=17, facts=HASWELL)
    comparison, verdict, text = told(make_run("one", traced=ALL), odd)
    assert not comparison.is_same
    assert comparison.first.layers == (2,)
    assert verdict == (
        "The runs differ: gradient of layer 2, first at step 17 of epoch 2; "
        "likely cause: BLAS kernel"
    )
    assert text.splitlines()[3:] == [
        "  same until    step 16",
        "  difference    the same rows give another gradient",
        "  likely cause  BLAS kernel openblas 0.3.31 SkylakeX | openblas 0.3.31 Haswell",
        "  next          train both with the same kernel; OPENBLAS_CORETYPE chooses it",
    ]


def test_other_gradient_in_the_same_environment(make_run):
    odd = make_run("two", traced=ALL, odd_step=17)
    _, verdict, text = told(make_run("one", traced=ALL), odd)
    assert verdict == "The runs differ: gradient of layer 2, first at step 17 of epoch 2"
    assert "unknown: nothing that is recorded explains it" in text
    assert "train both again: what doesn't come back was a machine's error" in text


def test_other_gradient_in_the_very_first_step(make_run):
    odd = make_run("two", traced=ALL, odd_step=1)
    _, verdict, text = told(make_run("one", traced=ALL), odd)
    assert verdict == "The runs differ: gradient of layer 2, first at step 1 of epoch 1"
    assert "  same until    the start\n" in text


def test_other_parameters(make_run):
    odd = make_run("two", traced=ALL, odd_step=17, odd_kind="parameters", facts=HASWELL)
    comparison, verdict, text = told(make_run("one", traced=ALL), odd)
    assert verdict == "The runs differ: parameters of layer 2, first at step 17 of epoch 2"
    assert "the same rows and gradient give other parameters" in text
    # No BLAS takes part in the update.
    assert comparison.causes == []


def test_a_difference_that_the_weights_do_not_show(make_run):
    odd = make_run("two", traced=ALL, odd_step=40, summary={"weights_sha256": "ef" * 32})
    comparison, verdict, _ = told(make_run("one", traced=ALL), odd)
    assert not comparison.is_same
    assert verdict.endswith("first at step 40 of epoch 4, with the same final weights")


def test_a_resumption_just_before_the_difference(make_run):
    odd = make_run("two", traced=ALL, odd_step=17, facts={"resumed": [FACTS | {"step": 16}]})
    _, verdict, text = told(make_run("one", traced=ALL), odd)
    assert verdict.endswith("; likely cause: resumption")
    assert "resumption of two after step 16" in text


def test_an_older_resumption_is_not_the_cause(make_run):
    odd = make_run("two", traced=ALL, odd_step=17, facts={"resumed": [FACTS | {"step": 10}]})
    assert compare(make_run("one", traced=ALL), odd).causes == []


def test_the_optimizer_may_not_be_the_first_to_differ_after_a_gap(make_run):
    odd = make_run("two", traced=range(25, 41), odd_step=25, odd_kind="parameters", facts=HASWELL)
    (cause,) = compare(make_run("one", traced=ALL), odd).causes
    assert cause.name == "BLAS kernel"


def test_traces_that_differ_where_they_begin(make_run):
    odd = make_run("two", traced=range(25, 41), odd_step=25, odd_epoch=3)
    _, verdict, text = told(make_run("one", traced=ALL), odd)
    assert verdict == "The runs differ: gradient of layer 2, first at step 25 of epoch 3"
    # The metrics of the first two epochs are the same.
    assert "same until    step 20; it came about in steps 21 to 25" in text
    assert "--trace true" in text


def test_metrics_that_differ_in_a_gap_of_the_traces(make_run):
    odd = make_run("two", traced=[*range(1, 6), *range(25, 41)], odd_step=25, odd_epoch=1)
    _, verdict, text = told(make_run("one", traced=ALL), odd)
    assert verdict == "The runs differ: train_loss, first in epoch 1"
    assert "same until    step 5; it came about in steps 6 to 10" in text


def test_traces_that_overlap_and_agree(make_run):
    one, two = make_run("one", traced=range(1, 31)), make_run("two", traced=range(21, 41))
    comparison, _, text = told(one, two)
    assert comparison.is_same
    assert "traces of steps 21 to 30" in text


def test_a_trace_cut_off_in_the_middle_of_a_line(make_run):
    one = make_run("one", traced=ALL)
    two = make_run("two", num_epochs=2, traced=range(1, 24), is_finished=False)
    with two.trace.open("a") as trace:
        trace.write('{"step": 24, "epo')
    comparison, verdict, text = told(one, two)
    assert comparison.is_same
    assert verdict == "The runs are the same as far as both have come: up to step 23"
    assert "  unfinished  two\n" in text


@pytest.mark.parametrize("traced", [(), ALL])
def test_metrics_alone(make_run, traced):
    odd = make_run("two", odd_epoch=3, facts=HASWELL)
    comparison, verdict, text = told(make_run("one", traced=traced), odd)
    assert not comparison.is_same
    assert verdict == ("The runs differ: train_loss, first in epoch 3; likely cause: BLAS kernel")
    assert "same until    step 20; it came about in steps 21 to 30" in text
    assert "train_loss 0.3333333333333333 | 0.33333333433333" in text
    assert "--trace true" in text


def test_other_metrics_of_the_same_parameters(make_run):
    one, two = make_run("one", traced=ALL), make_run("two", traced=ALL, odd_epoch=3)
    _, verdict, text = told(one, two)
    assert verdict == "The runs differ: train_loss, first in epoch 3"
    assert "same until    step 30\n" in text
    assert "--trace true" not in text


def test_final_weights_alone(make_run):
    odd = make_run("two", summary={"weights_sha256": "12" * 32})
    comparison, verdict, text = told(make_run("one"), odd)
    assert not comparison.is_same
    assert verdict == "The runs differ: final weights, after the same metrics"
    assert "weights_sha256 efefefefefefefef… | 1212121212121212…" in text
    assert "--trace true" in text


def test_scores_alone(make_run):
    odd = make_run("two", summary={"test_accuracy": 0.8, "confusion_matrix": [[8, 2], [1, 9]]})
    comparison, verdict, text = told(make_run("one"), odd)
    assert not comparison.is_same
    assert verdict == (
        "The runs differ: final scores, after the same metrics, with the same final weights"
    )
    assert "test_accuracy 0.9 | 0.8" in text
    assert "--trace true" not in text


def test_minus_zero_has_other_bits(make_run):
    one, two = (make_run(str(zero), summary={"test_loss": zero}) for zero in (0.0, -0.0))
    assert not compare(one, two).is_same


def test_tables_are_compared_but_not_printed(make_run):
    tables = [[[n] * 10] * 10 for n in (1, 2)]
    one, two = (make_run(str(n), summary={"confusion_matrix": t}) for n, t in enumerate(tables))
    _, _, text = told(one, two)
    assert "  difference    confusion_matrix other entries\n" in text


def test_an_unfinished_run(make_run):
    comparison, verdict, text = told(
        make_run("one"), make_run("two", num_epochs=2, is_finished=False)
    )
    assert comparison.is_same
    assert verdict == "The runs are the same as far as both have come: up to step 20"
    assert "  unfinished  two\n" in text


def test_a_longer_run_begins_the_same(make_run):
    longer = make_run("two", num_epochs=6, settings={"training": {"epochs": 6}})
    comparison, verdict, text = told(make_run("one"), longer)
    assert comparison.is_same
    assert verdict.endswith("as far as both have come: up to step 40")
    assert "harmless  epochs 4 | 6" in text


def test_a_longer_run_has_another_schedule_that_ends(make_run):
    cosine = {"optimization": {"schedule": "cosine"}}
    one = make_run("one", settings=cosine)
    two = make_run("two", num_epochs=6, settings=cosine | {"training": {"epochs": 6}})
    comparison, verdict, _ = told(one, two)
    assert not comparison.is_same
    assert verdict == (
        "The runs differ in their settings: epochs 4 | 6; up to step 40, their bits are the same"
    )


def test_other_settings(make_run):
    other = {"optimization": {"learning_rate": 0.02}, "training": {"seed": 1}}
    odd = make_run("two", odd_epoch=1, settings=other, facts=HASWELL)
    comparison, verdict, text = told(make_run("one"), odd)
    assert not comparison.is_same
    assert verdict == "The runs differ in their settings: learning_rate 0.01 | 0.02, seed 0 | 1"
    assert "difference   train_loss, first in epoch 1" in text
    assert "likely cause" not in text


def test_many_other_settings(make_run):
    other = {"network": {"hidden_widths": [9], "activation": "tanh"}, "training": {"seed": 1}}
    odd = make_run("two", odd_epoch=1, settings=other | {"optimization": {"learning_rate": 1.0}})
    _, verdict, text = told(make_run("one"), odd)
    assert verdict.endswith(
        "settings: hidden_widths [16, 8] | [9], activation relu | tanh, "
        "learning_rate 0.01 | 1.0, and more"
    )
    assert "seed 0 | 1" in text


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("patience", (0, 9)), ("checkpoint_every_steps", (0, 5)),
        ("checkpoint_every_minutes", (10.0, 1.0)), ("keep_checkpoints", (2, 3)),
        ("replica_check_every", (100, 0)), ("trace", (False, True)),
    ],
)  # fmt: skip
def test_settings_that_change_no_bits(make_run, field, values):
    runs = [
        make_run(name, settings={"training": {field: value}})
        for name, value in zip(("one", "two"), values, strict=True)
    ]
    comparison, _, text = told(*runs)
    assert comparison.is_same
    assert text.endswith(f"harmless  {field} {values[0]} | {values[1]}")


def test_a_run_that_was_to_be_longer_stopped_early_at_the_same_step(make_run):
    longer = {"settings": {"training": {"epochs": 6}}, "summary": {"stopped_early": True}}
    comparison, verdict, _ = told(make_run("one"), make_run("two", **longer))
    assert comparison.is_same
    assert "bit for bit" in verdict


def test_a_setting_that_only_one_version_knows(make_run):
    assert compare(make_run("one"), make_run("two", settings={"training": {"new": 5}})).is_same


def test_the_same_data_set_under_another_path(make_run):
    moved = {"data": {"data": "/elsewhere/made-up.h5"}}
    comparison, _, text = told(make_run("one"), make_run("two", settings=moved))
    assert comparison.is_same
    assert text.endswith("harmless  data")


def test_another_data_set_under_the_same_path(make_run):
    changed = {"dataset": {"content_sha256": "01" * 32}}
    comparison, verdict, _ = told(make_run("one"), make_run("two", odd_epoch=1, facts=changed))
    assert not comparison.is_same
    assert "data set abababababababab… | 0101010101010101…" in verdict


def test_a_session_with_another_kernel(make_run):
    sessions = [FACTS | {"step": 10}, FACTS | HASWELL | {"step": 20}]
    odd = make_run("two", traced=ALL, odd_step=21, facts={"resumed": sessions})
    (cause,) = compare(make_run("one", traced=ALL), odd).causes
    assert cause.values == (
        "openblas 0.3.31 SkylakeX | openblas 0.3.31 SkylakeX, after step 20 openblas 0.3.31 Haswell"
    )


def test_a_session_after_the_difference_is_not_its_cause(make_run):
    sessions = [FACTS | HASWELL | {"step": 20}]
    odd = make_run("two", traced=ALL, odd_step=17, facts={"resumed": sessions})
    comparison = compare(make_run("one", traced=ALL), odd)
    assert (comparison.causes, comparison.environment) == ([], [])


def test_sessions_on_other_ranks_are_told_in_short(make_run):
    sessions = [FACTS | {"step": 10, "world_size": 3}, FACTS | {"step": 20, "world_size": 1}]
    _, _, text = told(make_run("one"), make_run("two", facts={"resumed": sessions}))
    assert text.endswith("  harmless  ranks")


def test_environment_is_told_of_runs_that_are_the_same(make_run):
    newer = {"versions": FACTS["versions"] | {"numpy": "2.4.0", "python": "3.12.1"}}
    comparison, _, text = told(make_run("one"), make_run("two", facts=newer))
    assert comparison.is_same
    assert "  environment  NumPy 2.3.0 | 2.4.0\n" in text
    assert text.endswith("  harmless     Python 3.11.9 | 3.12.1")


def test_cpu_flags(make_run):
    newer = {"machine": FACTS["machine"] | {"cpu_flags": "sse avx avx2"}}
    _, _, text = told(make_run("one"), make_run("two", facts=newer))
    assert text.endswith("  environment  CPU flags of one only none | avx2 sse")


def test_flags_that_one_run_does_not_tell_are_no_difference(make_run):
    older = {"machine": {"system": "Linux x86_64"}}
    assert not compare(make_run("one"), make_run("two", facts=older)).environment


def test_pinned_kernels_and_threads(make_run):
    pinned = {"OPENBLAS_NUM_THREADS": "2", "OPENBLAS_L2_SIZE": "1048576"}
    # What this one has led to, the kernel tells.
    pinned["OPENBLAS_CORETYPE"] = "SkylakeX"
    other = {"blas": FACTS["blas"] | {"pinned": pinned}}
    _, _, text = told(make_run("one"), make_run("two", facts=other))
    assert "environment  BLAS variables none | OPENBLAS_L2_SIZE=1048576" in text
    assert text.endswith("harmless     thread variables")


def test_ranks_with_different_kernels(make_run):
    mixed = {"kernels": {"openblas 0.3.31 SkylakeX": 1, "openblas 0.3.31 Haswell": 1}}
    (cause,) = compare(make_run("one"), make_run("two", odd_epoch=1, facts=mixed)).causes
    assert cause.values == (
        "openblas 0.3.31 SkylakeX | openblas 0.3.31 Haswell (1), openblas 0.3.31 SkylakeX (1)"
    )


def test_sums_that_are_left_to_mpi(make_run):
    left = {"training": {"reduction": "mpi"}}
    one = make_run("one", settings=left)
    two = make_run("two", settings=left, odd_epoch=1, facts={"world_size": 4})
    _, verdict, text = told(one, two)
    assert verdict.endswith("likely cause: reduction, ranks")
    assert "reduction mpi: any two starts may add up in another order" in text


def test_a_run_without_facts(make_run):
    one, two = make_run("one"), make_run("two", odd_epoch=2)
    two.run.unlink()
    _, verdict, _ = told(one, two)
    assert verdict == "The runs differ: train_loss, first in epoch 2"


def test_runs_of_the_same_name_go_by_their_paths(make_run, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    _, _, text = told(make_run("a/run"), make_run("b/run"))
    assert f"  runs      {tmp_path}/a/run | {tmp_path}/b/run\n" in text


def test_nothing_to_compare(make_run):
    one, two = make_run("one"), make_run("two", num_epochs=0, is_finished=False)
    with pytest.raises(UserError, match="nothing to compare yet"):
        compare(one, two)


def test_other_settings_before_the_first_epoch(make_run):
    other = {"training": {"seed": 1}}
    one, two = make_run("one"), make_run("two", num_epochs=0, settings=other, is_finished=False)
    comparison, verdict, text = told(one, two)
    assert not comparison.is_same
    assert verdict == "The runs differ in their settings: seed 0 | 1"
    assert "nothing: no epoch or step in common" in text


@pytest.mark.parametrize("file", ["config.toml", "run.json", "metrics.jsonl", "trace.jsonl"])
def test_damaged_files_are_told(make_run, file):
    one, two = make_run("one", traced=ALL), make_run("two", traced=ALL)
    (two.path / file).write_text("{oh\n")
    with pytest.raises(UserError, match=rf"{file} is damaged"):
        compare(one, two)


def test_a_trace_of_other_objects_is_told(make_run):
    one, two = make_run("one", traced=ALL), make_run("two")
    two.trace.write_text('{"step": 1}\n')
    with pytest.raises(UserError, match=r"trace\.jsonl is damaged: a line isn't a step's"):
        compare(one, two)
