"""Several hosts: namespaces of this machine, whose ranks reach each other by a network only."""

import os
from functools import cache

import pytest

import lockstep
from lockstep.config import load_config
from lockstep.errors import RANK_LOST, USER_ERROR
from lockstep.parallel.single import SingleProcess
from lockstep.storage.run_folder import read_json, read_json_lines
from lockstep.train.run import run_training

STALL_S = 3
# When a lost host is told of, at the latest, and when a launcher that waits for it is ended, on
# machines that are busy.
NOTICED_S, ENDED_S = 3 * STALL_S, 20
# Epochs; the long training is under way when a link is cut.
SHORT, LONG = 3, 200
# A network of 1,126,410 parameters, of which every host sends each step what adds up to all of
# them: one half for the other host to add up, and the sum of its own half.
WIDE = ["--hidden-widths", "1024,1024", "--virtual-ranks", "2"]
WIDE_STEP_BYTES = 4 * (64 * 1024 + 1024 + 1024 * 1024 + 1024 + 1024 * 10 + 10)
STEPS_PER_EPOCH = 23


@pytest.fixture(scope="module")
def alone(digits_file, tmp_path_factory):
    """Return what gives the digest of so many epochs in a single process."""

    @cache
    def digest(epochs):
        options = {"data": str(digits_file), "epochs": str(epochs), "virtual_ranks": "4"}
        config = load_config(None, options)
        results = tmp_path_factory.mktemp("alone")
        run = run_training(config, SingleProcess(), results, "run", quiet=True)
        return read_json(run.folder.summary)["weights_sha256"]

    return digest


def options_of(data, epochs, *more):
    return ["--data", data, "--run-name", "run", "--epochs", epochs, "--virtual-ranks", "4", *more]


def facts_of(program):
    return read_json(program.folder / "results/run/run.json")


def assert_ran_on(program, network, hosts_of_ranks):
    facts = facts_of(program)
    names = [text.partition(",")[0] for text in facts["binding"].values()]
    assert names == [network.names[host] for host in hosts_of_ranks]
    has_pairs = len(set(hosts_of_ranks)) < len(hosts_of_ranks)
    memory, ends = ("shared", "nodes") if has_pairs else ("own", "ranks")
    assert facts["reduction"].startswith(f"{memory} memory, ")
    assert facts["reduction"].endswith(f" between {ends}")


def lines_of(text, kind):
    return [line for line in text.splitlines() if line.startswith(f"{kind}: ")]


def wait_until_it_trains(program):
    program.wait_for((program.folder / "results/run/metrics.jsonl").exists)


@pytest.mark.parametrize(
    ("placement", "hosts_of_ranks"),
    [
        ("in turn", [0, 1]),
        ("in turn", [0, 1, 2]),
        ("in turn", [0, 1, 2, 0]),
        ("host by host", [0, 0, 1, 1]),
        ("unevenly", [0, 0, 0, 1]),
        ("unevenly", [0, 1, 2, 2]),
    ],
)
def test_where_mpiexec_places_the_ranks_makes_no_difference_to_the_bits(
    program, hosts, digits_file, alone, placement, hosts_of_ranks
):
    where = hosts.placement(placement, hosts_of_ranks)
    train = ["train", *options_of(digits_file, SHORT)]
    with hosts.mpiexec(where, len(hosts_of_ranks), *train) as job:
        assert job.wait() == 0, job.stderr
    assert_ran_on(program, hosts.network, hosts_of_ranks)
    assert program.summary("run")["weights_sha256"] == alone(SHORT)


@pytest.mark.parametrize(
    ("num_hosts", "options", "hosts_of_ranks"),
    [
        (2, {}, [0, 1, 1]),
        (3, {}, [0, 1, 2]),
        (2, {"MPICH": "-ppn 1", "Open MPI": "--map-by node"}, [0, 1, 0, 1]),
    ],
)
def test_lockstep_itself_spreads_the_ranks_over_hosts(
    program, hosts, digits_file, alone, num_hosts, options, hosts_of_ranks
):
    more = options.get(hosts.family, "")
    train = options_of(digits_file, SHORT)
    with hosts.lockstep(num_hosts, len(hosts_of_ranks), *train, options=more) as job:
        assert job.wait() == 0, job.stderr
    assert_ran_on(program, hosts.network, hosts_of_ranks)
    assert program.summary("run")["weights_sha256"] == alone(SHORT)


@pytest.mark.parametrize(("unplugged", "lost"), [(2, [2]), (0, [1, 2])])
def test_a_link_that_is_cut_ends_the_job_and_the_run_can_go_on(
    program, hosts, digits_file, alone, unplugged, lost
):
    network = hosts.network
    train = options_of(digits_file, LONG, "--stall-timeout-s", STALL_S)
    with hosts.lockstep(3, 3, *train) as job:
        wait_until_it_trains(program)
        network.unplug(unplugged)
        program.wait_for(lambda: lines_of(job.stderr, "Error"), NOTICED_S)
        assert job.process.wait(ENDED_S) == RANK_LOST, job.stderr
        # What was started on the lost hosts is out of the launcher's reach.
        for host in {0, 1, 2}.difference(lost):
            program.wait_for(lambda host=host: not network.processes(host))
        (error,) = lines_of(job.stderr, "Error")
    names = ", ".join(f"Rank {host} ({network.names[host]})" for host in lost)
    have = "has" if len(lost) == 1 else "have"
    assert error.startswith(f"Error: {names} {have} not been heard of for {STALL_S} s, lost in ")
    assert error.endswith("Go on with: lockstep train --resume results/run")
    assert program("train", "--resume", "results/run").returncode == 0
    assert program.summary("run")["weights_sha256"] == alone(LONG)


def test_a_link_that_is_cut_ends_the_ranks_of_a_launcher_of_the_users_own(
    program, hosts, digits_file
):
    network = hosts.network
    train = ["train", *options_of(digits_file, LONG, "--stall-timeout-s", STALL_S)]
    with hosts.mpiexec(hosts.placement("unevenly", [0, 0, 1]), 3, *train) as job:
        wait_until_it_trains(program)
        network.unplug(1)
        program.wait_for(lambda: lines_of(job.stderr, "Error"), NOTICED_S)
        # Those on the lost host find out by themselves.
        program.wait_for(lambda: not job.ranks())
        (error,) = lines_of(job.stderr, "Error")
        if hosts.family == "Open MPI":
            # Its mpiexec waits for its daemon on the lost host, until TCP gives up or:
            network.mend()
        assert job.process.wait(60) == RANK_LOST
        program.wait_for(lambda: not network.processes(0))
    assert f"Rank 2 ({network.names[1]}) has not been heard of for {STALL_S} s" in error


def test_when_a_host_is_lost_the_job_goes_on_with_the_ranks_that_are_left(
    program, hosts, digits_file, alone
):
    network = hosts.network
    train = options_of(digits_file, LONG, "--stall-timeout-s", STALL_S, "--restarts", "1")
    with hosts.lockstep(2, 3, *train) as job:
        wait_until_it_trains(program)
        network.unplug(1)
        # What was started on the lost host is out of the launcher's reach.
        assert job.process.wait(120) == 0, job.stderr
    (error,) = lines_of(job.stderr, "Error")
    assert error.count(network.names[1]) == 2
    assert f" have not been heard of for {STALL_S} s, " in error
    assert f"Warning: {network.addresses[1]} can't be reached any more." in job.stderr
    assert "Restart 1 of 1, on 1 rank." in job.stderr
    assert program.summary("run")["weights_sha256"] == alone(LONG)


def test_on_slow_links_the_reduction_takes_as_long_as_computed(program, hosts, digits_file):
    def reduce_s(rate):
        """Return the time per step."""
        folder, before_bytes = program.folder / "results" / rate, network.sent_bytes(0)
        train = ["--data", digits_file, "--run-name", rate, "--epochs", "1", *WIDE]
        with hosts.lockstep(2, 2, *train) as job:
            assert job.wait() == 0, job.stderr
        # All of it takes the link; and some more, for the ways to reduce were tried before.
        assert network.sent_bytes(0) - before_bytes > STEPS_PER_EPOCH * WIDE_STEP_BYTES
        assert (folder / "plots" / "time_per_phase.png").exists()
        (epoch,) = read_json_lines(folder / "metrics.jsonl")
        found_s = epoch["reduce_s"] / STEPS_PER_EPOCH
        assert f"<td>{1000 * found_s:.3f}</td>" in (folder / "report.html").read_text()
        return found_s

    network = hosts.network
    reduce_s("unlimited")
    network.limit("1gbit")
    at_1_gbit_s = reduce_s("1gbit")
    network.mend()
    network.limit("250mbit")
    at_250_mbit_s = reduce_s("250mbit")
    # A link that was idle lets the first part of a message through at once, and what is sent layer
    # by layer may leave while the layers below are computed.
    assert at_1_gbit_s > 0.8 * WIDE_STEP_BYTES / (1e9 / 8)
    assert at_250_mbit_s > 0.8 * WIDE_STEP_BYTES / (250e6 / 8)
    assert at_250_mbit_s > at_1_gbit_s
    digests = {program.summary(run)["weights_sha256"] for run in ("unlimited", "1gbit", "250mbit")}
    assert len(digests) == 1


def test_hosts_of_other_cores_and_blas_kernels_train_together_and_it_is_told_once(
    program, hosts, digits_file, monkeypatch
):
    # Where it is set, MPICH passes it on to the other host.
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    here, there = hosts.network.names[:2]
    cores = sorted(os.sched_getaffinity(0))
    hosts.set_profile(1, f"export OPENBLAS_CORETYPE=Nehalem; taskset -pc {cores[0]} $$ >/dev/null")
    with hosts.lockstep(2, 2, *options_of(digits_file, SHORT)) as job:
        assert job.wait() == 0, job.stderr
    facts = facts_of(program)
    assert facts["binding"]["rank 1"] == f"{there}, core {cores[0]}"
    assert facts["binding"]["rank 0"].startswith(f"{here}, core{'s' * (len(cores) > 1)} ")
    assert sorted(facts["kernels"].values()) == [1, 1]
    (warning,) = lines_of(job.stderr, "Warning")
    assert warning.startswith(
        "Warning: the ranks compute with different NumPys, BLAS kernels or threads: "
        f"rank 0 ({here}) with openblas "
    )
    assert f"; rank 1 ({there}) with openblas " in warning
    assert " Nehalem, NumPy " in warning


def test_as_many_threads_as_the_user_says_are_used_on_all_hosts(program, hosts, digits_file):
    train = options_of(digits_file, SHORT)
    with hosts.lockstep(2, 2, *train, OMP_NUM_THREADS="2") as job:
        assert job.wait() == 0, job.stderr
    assert list(facts_of(program)["kernels"].values()) == [2]


def test_a_host_with_another_lockstep_is_refused(program, hosts, digits_file):
    here, there = hosts.network.names[:2]
    folder = program.folder / "other"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("import lockstep; lockstep.__version__ = '0.0.99'")
    hosts.set_profile(1, f"export PYTHONPATH={folder}")
    with hosts.lockstep(2, 2, *options_of(digits_file, SHORT)) as job:
        assert job.wait() == USER_ERROR, job.stderr
    assert lines_of(job.stderr, "Error") == ["Error: The ranks don't mean the same run:"]
    version = lockstep.__version__
    assert f"Lockstep: {version} on rank 0 ({here}), 0.0.99 on rank 1 ({there})\n" in job.stderr
    assert not (program.folder / "results" / "run").exists()
