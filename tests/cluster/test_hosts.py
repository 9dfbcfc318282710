"""Two hosts: network namespaces of this machine, whose ranks reach each other by TCP only."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ADDRESSES = ("10.77.0.1", "10.77.0.2")
# Two test runs at the same time don't get into each other's way.
NAMES = tuple(f"lockstep-{os.getpid()}-{number}" for number in (1, 2))
# Skips mpiexec's options for a remote shell; the first word after them is the host's address.
LAUNCHER = f"""#!/bin/bash
while [[ $1 == -* ]]; do shift; done
host=lockstep-{os.getpid()}-${{1##*.}}; shift
exec ip netns exec $host unshare --uts sh -c "hostname $host; export HOSTNAME=$host; $*"
"""


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


def has_tentative_address(name):
    told = subprocess.run(
        ["ip", "-n", name, "addr"], check=True, capture_output=True, text=True
    ).stdout
    return "tentative" in told or "state DOWN" in told


@pytest.fixture(scope="module")
def hosts():
    """Two namespaces with a link between them."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("network namespaces need root and iproute2")
    try:
        ip("netns", "add", NAMES[0])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces can't be made here: {error.stderr.decode().strip()}")
    try:
        ip("netns", "add", NAMES[1])
        ip("link", "add", "link1", "netns", NAMES[0], "type", "veth", "peer", "name", "link2",
           "netns", NAMES[1])  # fmt: skip
        for number, (name, address) in enumerate(zip(NAMES, ADDRESSES, strict=True), start=1):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", f"link{number}")
            ip("-n", name, "link", "set", f"link{number}", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield NAMES
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.fixture
def launcher(program, hosts):
    """Return mpiexec's options to reach the hosts."""
    mpiexec = Path(program.python).with_name("mpiexec")
    told = subprocess.run([mpiexec, "--version"], check=True, capture_output=True, text=True)
    if "HYDRA" not in told.stdout:
        pytest.skip("the command line is that of MPICH's mpiexec")
    # Before all addresses are settled, MPICH would take the loopback for the network.
    program.wait_for(lambda: not any(map(has_tentative_address, hosts)))
    launcher = program.folder / "launcher"
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o755)
    return ["-localhost", ADDRESSES[0], "-launcher", "ssh", "-launcher-exec", str(launcher)]


NETWORK = {"MPIR_CVAR_CH4_NETMOD": "ofi", "FI_PROVIDER": "tcp"}


@pytest.mark.parametrize(
    ("num_ranks", "placement", "memory"),
    [(2, "-ppn 1", "own memory, "), (4, "-ppn 2", "shared memory, "), (3, "-ppn 2", "shared")],
)
def test_ranks_on_two_hosts_give_the_bits_of_one_process(
    program, hosts, launcher, digits_file, num_ranks, placement, memory
):
    train = ("train", "--data", digits_file, "--epochs", "3", "--virtual-ranks", "4")
    done = program.run([
        "ip", "netns", "exec", hosts[0], Path(program.python).with_name("mpiexec"),
        "-hosts", ",".join(ADDRESSES), *launcher, *placement.split(), "-n", num_ranks,
        program.python, "-m", "lockstep", *train, "--run-name", "hosts",
    ], **NETWORK)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert program(*train, "--run-name", "alone").returncode == 0
    digests = [program.summary(run)["weights_sha256"] for run in ("hosts", "alone")]
    assert digests[0] == digests[1]
    facts = json.loads((program.folder / "results/hosts/run.json").read_text())
    assert len(facts["hosts"]) == 2
    assert facts["reduction"].startswith(memory)
    assert "between" in facts["reduction"]


def test_when_a_host_is_lost_the_job_goes_on_with_the_ranks_that_are_left(
    program, hosts, launcher, digits_file
):
    train = ("train", "--data", digits_file, "--epochs", "60", "--virtual-ranks", "4")
    command = [
        "ip", "netns", "exec", hosts[0], Path(program.python).with_name("lockstep"), *train,
        "--run-name", "run", "--stall-timeout-s", "3", "-n", "3", "--hosts", ",".join(ADDRESSES),
        f"--mpiexec-options={' '.join(launcher)}", "--restarts", "1",
    ]  # fmt: skip
    try:
        with program.running(command, **NETWORK) as job:
            program.wait_for((program.folder / "results/run/metrics.jsonl").exists)
            ip("-n", hosts[0], "link", "set", "link1", "down")
            # What was started on the lost host is out of the launcher's reach.
            exit_code = job.process.wait(120)
    finally:
        ip("-n", hosts[0], "link", "set", "link1", "up")
    assert exit_code == 0, job.stderr
    errors = [line for line in job.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, job.stderr
    assert f"({hosts[1]}) has not been heard of for 3 s" in errors[0]
    assert f"Warning: {ADDRESSES[1]} can't be reached any more." in job.stderr
    assert "Restart 1 of 1, on 1 rank." in job.stderr
    assert program(*train, "--run-name", "alone").returncode == 0
    digests = [program.summary(run)["weights_sha256"] for run in ("run", "alone")]
    assert digests[0] == digests[1]
