"""The data set staged to each host's own storage: the same bits, and failures that all share."""

import json
import os
from pathlib import Path

import pytest

AS_HOSTS = Path(__file__).parent / "programs" / "as_hosts.py"
OWN = f"lockstep-{os.geteuid()}"
TRAIN = ("train", "--virtual-ranks", "4", "--epochs", "2")


@pytest.fixture
def nodes(program):
    """Three hosts' own storage, the third of which only more than four ranks would use."""
    folders = [program.folder / f"node{number}" for number in range(2)]
    for folder in folders:
        folder.mkdir()
    return folders


def train(program, digits_file, name, *options, num_ranks=3, broken=""):
    command = [AS_HOSTS, *TRAIN, "--data", digits_file, "--run-name", name, *options]
    return program.on_ranks(num_ranks, *command, BROKEN=broken)


def copies(nodes):
    return [
        [path for path in sorted((node / OWN).glob("*")) if path.name != ".lock"] for node in nodes
    ]


def stage_option(program):
    return f"--stage={program.folder}/$NODE"


def error_in(done):
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    return error


def test_the_bits_do_not_depend_on_staging_and_each_host_has_one_copy(program, digits_file, nodes):
    for name, num_ranks, options in [
        ("alone", 1, ()),
        ("alone-staged", 1, (stage_option(program),)),
        ("three", 3, ()),
        ("three-staged", 3, (stage_option(program),)),
    ]:
        done = train(program, digits_file, name, *options, num_ranks=num_ranks)
        assert done.returncode == 0, done.stderr
        assert ("Staging" in done.stdout) == bool(options)
    runs = ("alone", "alone-staged", "three", "three-staged")
    assert len({program.summary(run)["weights_sha256"] for run in runs}) == 1
    (one,), (other,) = copies(nodes)
    assert one.read_bytes() == other.read_bytes() == digits_file.read_bytes()
    # The folder stays what it was called, for other hosts; and where the data were is known.
    config = (program.folder / "results/three-staged/config.toml").read_text()
    assert f'stage = "{program.folder}/$NODE"' in config
    assert f'data = "{digits_file}"' in config
    facts = json.loads((program.folder / "results/three-staged/run.json").read_text())
    assert facts["hosts"] == {"node0": 2, "node1": 1}
    assert facts["dataset"]["path"] == str(digits_file)


def test_a_run_goes_on_with_another_folder_or_none_and_is_evaluated_without(
    program, digits_file, nodes
):
    assert train(program, digits_file, "run", stage_option(program)).returncode == 0
    for node in nodes:
        (node / OWN).rename(node / "gone")
    assert program("evaluate", "results/run").returncode == 0
    assert copies(nodes) == [[], []]
    resume = ("train", "--resume", "results/run", "--epochs", "3")
    done = program(*resume, f"--stage={nodes[0]}")
    assert done.returncode == 0, done.stderr
    assert [len(found) for found in copies(nodes)] == [1, 0]
    done = program(*resume[:-1], "4", "--stage=")
    assert done.returncode == 0, done.stderr
    assert "Staging" not in done.stdout


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("full", "Rank 2 (node1): Too little room in {node}/{own} on node1: "),
        ("damages", "Rank 2 (node1): The copy of {data} on node1 is not what was recorded when "),
        ("elsewhere", "Rank 2 (node1): Rank 2 has staged the data to /no/copy.h5 on node1, but "),
    ],
)
def test_a_host_that_can_not_stage_ends_all_with_one_message(
    program, digits_file, nodes, broken, message
):
    done = train(program, digits_file, "run", stage_option(program), broken=broken)
    expected = message.format(node=nodes[1], own=OWN, data=digits_file)
    assert error_in(done).startswith(f"Error: {expected}")
    # The other host's copy is good; and there is no run.
    assert [len(found) for found in copies(nodes)] == [1, 0]
    assert not (program.folder / "results").exists()


def test_a_folder_that_is_nowhere_is_told_for_every_host(program, digits_file, nodes):
    done = train(program, digits_file, "run", f"--stage={program.folder}/no/$NODE")
    assert error_in(done).startswith("Error: Rank 0 (node0): stage = ")
    assert "Rank 2 (node1): stage = " in done.stderr
    assert copies(nodes) == [[], []]


def test_ranks_that_wait_for_a_copy_are_not_taken_for_hanging(program, digits_file, nodes):
    done = train(program, digits_file, "run", stage_option(program), broken="slow")
    assert done.returncode == 0, done.stderr
    assert [len(found) for found in copies(nodes)] == [1, 1]


def test_what_a_rank_that_has_died_in_staging_leaves_is_removed_by_the_next_job(
    program, digits_file, nodes
):
    done = train(program, digits_file, "run", stage_option(program), broken="dies")
    assert done.returncode != 0
    assert [len(found) for found in copies(nodes)] == [1, 1]
    assert copies(nodes)[1][0].suffix == ".tmp"
    assert train(program, digits_file, "run", stage_option(program)).returncode == 0
    assert [[path.suffix for path in found] for found in copies(nodes)] == [[".h5"], [".h5"]]


def test_hosts_with_different_numpys_are_told_of(program, digits_file):
    done = train(program, digits_file, "run", broken="other NumPy")
    assert done.returncode == 0, done.stderr
    (warning,) = [line for line in done.stderr.splitlines() if "NumPy" in line]
    assert warning.startswith(
        "Warning: the ranks compute with different NumPys, BLAS kernels or threads: ranks 0-1 "
        "(node0) with "
    )
    assert "; rank 2 (node1) with " in warning
    assert ", NumPy 1.99 " in warning
    assert "the bits depend on where a virtual rank runs" in warning
    facts = json.loads((program.folder / "results/run/run.json").read_text())
    assert list(facts["kernels"].values()) == [2, 1]


def test_hosts_with_different_locksteps_are_refused(program, digits_file):
    done = train(program, digits_file, "run", broken="other Lockstep")
    assert error_in(done) == "Error: The ranks don't mean the same run:"
    assert "0.0.99 on rank 2 (node1)" in done.stderr
    assert "Give all of them the same configuration, data and version" in done.stderr
