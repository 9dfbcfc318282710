"""`lockstep verify`: the promise, checked on the spot."""

import re


def test_all_numbers_of_ranks_have_the_same_bits(program, digits_file):
    done = program("verify", "--data", digits_file, "--steps", "30")
    assert done.returncode == 0, done.stderr
    *trials, verdict = done.stdout.splitlines()
    assert verdict == "The same bits in all 5 trainings of 30 steps."
    ways = [re.match(r"ranks (.*?)  +([0-9a-f]{16})(  same)?$", line) for line in trials]
    assert [way[1] for way in ways] == [
        "1", "1, stopped and resumed on 2", "2, stopped and resumed on 3",
        "3, stopped and resumed on 4", "4, stopped and resumed on 1",
    ]  # fmt: skip
    assert len({way[2] for way in ways}) == 1
    # Nothing is left behind.
    assert not list((program.folder / "results").iterdir())


def test_under_a_launcher_it_takes_the_ranks_that_there_are(program, digits_file):
    done = program.on_ranks(3, "-m", "lockstep", "verify", "--data", digits_file)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "The same bits in all 4 trainings of 20 steps."
    done = program.on_ranks(2, "-m", "lockstep", "verify", "--data", digits_file, "--ranks", "1,3")
    assert done.returncode == 2
    assert done.stderr.count("Error: --ranks asks for 3, but there are 2 ranks here.") == 1


def test_one_rank_needs_no_mpi(program, digits_file):
    done = program("verify", "--data", digits_file, "--ranks", "1", "--virtual-ranks", "4")
    assert done.returncode == 0, done.stderr
    assert "The same bits in all 2 trainings of 20 steps." in done.stdout


def test_other_bits_are_told_and_the_runs_are_kept_to_be_compared(program, digits_file):
    # The MPI library's own sum is in another order for another number of ranks.
    options = ("--reduction", "mpi", "--ranks", "1,2,3", "--trace", "true")
    done = program("verify", "--data", digits_file, *options)
    assert done.returncode == 1, done.stdout
    assert "OTHER" in done.stdout
    assert 'reduction = "mpi" does not promise them' in done.stdout
    (folder,) = (program.folder / "results").iterdir()
    compared = program("compare", folder / "1", folder / "2-then-3")
    assert compared.returncode == 1, compared.stderr
    assert "gradient" in compared.stdout.splitlines()[0]


def test_what_is_wrong_is_told_once_and_all_ranks_end(program, digits_file):
    for options, message in [
        (("--data", "none.h5"), "The dataset file none.h5 doesn't exist"),
        (("--data", digits_file, "--ranks", "1,x"), "--ranks 1,x: numbers of ranks"),
        (("--data", digits_file, "--virtual-ranks", "3"), "There are 4 ranks, but virtual_ranks"),
        (("--data", digits_file, "--results", digits_file), "Can't make the folder"),
        (("--data", digits_file, "--epochs", "1", "--steps", "500"), "the whole training has 23"),
    ]:
        done = program("verify", *options)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
        assert done.stderr.count("Error: ") == 1


def test_a_training_that_fails_on_some_ranks_ends_all(program, digits_file):
    # Only the ranks that train see it; the others are asleep meanwhile.
    options = ("--optimizer", "sgd", "--learning-rate", "1e30", "--ranks", "1,3")
    done = program("verify", "--data", digits_file, *options)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("Error: ") == 1
    assert "The training has diverged" in done.stderr
