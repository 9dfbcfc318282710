"""One rank fails, all ranks end, and one message says why."""

import time
from pathlib import Path

import pytest

from lockstep.data.convert import ConvertOptions, convert

PROGRAMS = Path(__file__).parent / "programs"
FAIL_AT = PROGRAMS / "fail_at.py"
FAILING_CALL = PROGRAMS / "failing_call.py"
TRAIN = ("train", "--epochs", "2", "--virtual-ranks", "4", "--run-name", "run")


def errors_in(done):
    return [line for line in done.stderr.splitlines() if line.startswith("Error: ")]


@pytest.mark.parametrize("num_ranks", [1, 3])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "none.h5"], "The dataset file none.h5 doesn't exist"),
        ([], "No data set is named"),
        (["--data", "d.h5", "--epochs", "x", "--momentu", "1"], "The configuration has 2 problems"),
        (["--data", "d.h5", "--global-batch-size", "3"], "global_batch_size = 3 is less than"),
        (["no.toml"], "There is no configuration file no.toml"),
        (["a.toml", "b.toml"], "One configuration file at the most"),
        (["d.h5"], "d.h5 looks like a data set and no configuration: use --data d.h5"),
        (["--data", "d.h5", "--hidden-widths", "9000000"], "The configuration has a problem"),
        (["--data", "d.h5", "--warmup-epochs", "2"], "would never reach its peak"),
        (["--data", "d.h5", "--weight-decay", "1000"], "take the weights through zero"),
        (["--data", "text.h5"], "text.h5 is no HDF5 file"),
        (["--data", "d.h5", "--results", "text.h5"], "Can't make the folder text.h5"),
    ],
)
def test_what_the_user_got_wrong_is_told_once(program, digits_file, num_ranks, arguments, message):
    (program.folder / "d.h5").symlink_to(digits_file)
    (program.folder / "text.h5").write_text("not HDF5")
    done = program.on_ranks(num_ranks, "-m", "lockstep", *TRAIN, *arguments)
    assert done.returncode == 2
    assert len(errors_in(done)) == 1, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (program.folder / "results").exists()


def test_more_ranks_than_virtual_ranks_are_refused_before_they_start(program, digits_file):
    done = program("train", "--data", digits_file, "--virtual-ranks", "2", "-n", "3")
    assert done.returncode == 2
    assert errors_in(done)[0].startswith("Error: There are 3 ranks, but virtual_ranks = 2")


def test_an_existing_run_folder_is_never_written_to(program, digits_file):
    (program.folder / "results" / "run").mkdir(parents=True)
    done = program("train", "--data", digits_file, "--run-name", "run", "-n", "2")
    assert done.returncode == 2
    assert "two runs never share a folder" in done.stderr
    assert not list((program.folder / "results" / "run").iterdir())


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize(
    ("point", "message", "exit_code"),
    [
        ("import", "lockstep.cli", 1),
        ("reading", "digits.h5 can't be read any more", 2),
        ("step", "the step broke", 1),
        ("save", "No space left on device", 1),
        ("report", "the plot broke", 1),
    ],
)
def test_a_failure_on_one_rank_ends_all(
    program, digits_file, ledger, point, message, exit_code, rank
):
    if point in {"save", "report"} and rank:
        rank = 0  # only the root does these
    began_s = time.time()
    done = program.on_ranks(3, FAIL_AT, rank, point, *TRAIN, "--data", digits_file)
    ledger.record(
        fault=f"exception in: {point}",
        ranks=3,
        seconds=time.time() - began_s,
        exit_code=done.returncode,
        messages=len(errors_in(done)),
    )
    assert done.returncode == exit_code, done.stderr
    assert message in done.stderr, done.stderr
    is_bug = exit_code == 1 and point != "save"
    assert done.stderr.count("Traceback") == int(is_bug)
    assert f"Rank {rank}" in done.stderr


def test_a_call_that_fails_as_its_partner_dies_is_no_traceback(program, digits_file):
    done = program.on_ranks(2, FAILING_CALL, "dies", *TRAIN, "--data", digits_file)
    assert done.returncode
    assert "Traceback" not in done.stderr, done.stderr


def test_a_call_that_fails_while_all_ranks_live_is_told_with_its_traceback(program, digits_file):
    done = program.on_ranks(2, FAILING_CALL, "lives", *TRAIN, "--data", digits_file)
    assert done.returncode == 1
    (message,) = errors_in(done)
    assert message.startswith("Error: Rank 0: Traceback"), done.stderr
    assert "mpi4py.MPI.Exception: " in done.stderr


def test_a_failing_report_loses_nothing(program, digits_file):
    done = program.on_ranks(2, FAIL_AT, 0, "report", *TRAIN, "--data", digits_file)
    assert done.returncode == 1
    assert program.summary("run")["num_epochs"] == 2
    assert program("report", "results/run").returncode == 0
    assert (program.folder / "results/run/report.html").exists()


def test_a_diverging_training_stops_and_says_why(program, digits_file):
    done = program(
        *TRAIN, "--data", digits_file, "--optimizer", "sgd", "--learning-rate", "1e20", "-n", "2"
    )
    assert done.returncode == 2
    (message,) = errors_in(done)
    assert "The training has diverged at step 2 (epoch 1): the loss is nan, and what is" in message
    assert "begins in the outputs of virtual rank 0 (rank 0, and 3 more); the samples" in message
    assert "The checkpoint of step 0 is from before." in message
    assert "RuntimeWarning" not in done.stderr


def test_diverging_in_the_very_last_step_is_noticed_too(program, digits_file):
    done = program(
        *TRAIN, "--data", digits_file, "--optimizer", "sgd", "--learning-rate", "1e30",
        "--epochs", "1", "--global-batch-size", "1500",
    )  # fmt: skip
    assert done.returncode == 2
    (message,) = errors_in(done)
    assert "The training has diverged at step 1 (epoch 1): the validation loss is nan" in message


def test_too_large_a_network_is_no_traceback(program, digits_file):
    done = program(*TRAIN, "--data", digits_file, "--hidden-widths", "1000000,1000000")
    assert done.returncode == 2
    assert errors_in(done)[0].startswith("Error: Not enough memory: rank 0 would take about 4")
    assert "Traceback" not in done.stderr
    assert not (program.folder / "results").exists()


def test_a_batch_larger_than_the_data_is_no_larger_in_memory(program, digits_file):
    done = program(*TRAIN, "--data", digits_file, "--global-batch-size", "1000000000")
    assert done.returncode == 0, done.stderr
    assert program.summary("run")["num_steps"] == 2


@pytest.mark.parametrize(
    "environment",
    [
        {"PMI_RANK": "0", "PMI_SIZE": "2"},
        {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4"},
        {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"},
    ],
)
def test_a_singleton_among_several_refuses_to_train(program, digits_file, environment):
    done = program(*TRAIN, "--data", digits_file, **environment)
    assert done.returncode == 2
    assert "but the MPI library sees 1" in done.stderr
    assert not (program.folder / "results").exists()


@pytest.mark.parametrize("which", ["root", "last"])
def test_a_killed_rank_ends_the_job_and_leaves_whole_checkpoints(program, digits_file, which):
    command = ("-m", "lockstep", *TRAIN, "--epochs", "100000", "--data", digits_file)
    with program.started_on_ranks(3, *command) as job:
        # What is evaluated is the best one, and the first comes with the end of an epoch.
        program.wait_for((program.folder / "results/run/checkpoints/best").exists)
        ranks = job.ranks()
        assert list(ranks) == [0, 1, 2]
        job.kill(ranks[0 if which == "root" else 2])
        assert job.wait() != 0
    told = program("evaluate", "results/run", "--split", "validation")
    assert told.returncode == 0, told.stderr


@pytest.mark.parametrize(
    ("options", "others", "difference"),
    [
        ((), ("--learning-rate", "0.5"), "optimization.learning_rate: 0.002 on rank 0, 0.5 on"),
        ((), ("--checkpoint-every-steps", "5"), "training.checkpoint_every_steps: 0 on rank 0, 5"),
        (("--data", "a.h5"), ("--data", "b.h5"), "data: "),
    ],
)
def test_ranks_that_mean_different_runs_do_not_start(
    program, digits_file, options, others, difference
):
    (program.folder / "a.h5").symlink_to(digits_file)
    convert("digits", program.folder / "b.h5", ConvertOptions(seed=1))
    rank = [program.python, "-m", "lockstep", *TRAIN, "--data", "a.h5"]
    mpiexec = Path(program.python).with_name("mpiexec")
    done = program.run(
        [mpiexec, "-n", "1", *rank, *options, ":", "-n", "1", *rank, *others],
        **program.mpi_settings,
    )
    assert done.returncode == 2, done.stderr
    assert len(errors_in(done)) == 1
    assert "The ranks don't mean the same run:" in done.stderr
    assert difference in done.stderr
    assert not (program.folder / "results").exists()
