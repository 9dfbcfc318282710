"""Hosts to test on: network namespaces of this machine, which reach each other by TCP only."""

import json
import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from lockstep.parallel.launch import library_family, library_version

NUM_HOSTS = 3
# Stands in for ssh: skips its options, knows the host by the address, and runs the command in an
# environment of the host's own, which a profile may set up.
SSH = """#!/bin/bash
while [[ $1 == -* ]]; do shift; done
name={start}${{1##*.}}; shift
exec env -i PATH="$PATH" HOME="$HOME" LOCKSTEP_TEST_JOB="$LOCKSTEP_TEST_JOB" \\
    ip netns exec $name unshare --uts sh -c "
    hostname $name; [ ! -e {folder}/$name ] || . {folder}/$name; $*"
"""
# The hosts have one memory in truth, and MPI libraries are to use the network all the same. Open
# MPI's ranks are to give way to each other, for they only count those of their own host.
SETTINGS = {
    "MPICH": {"MPIR_CVAR_CH4_NETMOD": "ofi", "FI_PROVIDER": "tcp"},
    "Open MPI": {
        "OMPI_MCA_pml": "ob1",
        "OMPI_MCA_btl": "self,sm,tcp",
        "OMPI_MCA_osc": "^ucx",
        "OMPI_MCA_mpi_yield_when_idle": "1",
    },
}


def call(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


class Network:
    """Hosts that have an address each, and are linked by a switch.

    Attributes
    ----------
    names, addresses : list of str
        Of the hosts.
    start : str
        What all names begin with; two test runs at the same time don't get into each other's way.
    """

    def __init__(self):
        self.start = f"lockstep-test-{os.getpid()}-"
        numbers = range(1, NUM_HOSTS + 1)
        self.names = [f"{self.start}{number}" for number in numbers]
        self.addresses = [f"10.77.0.{number}" for number in numbers]
        self._switch = f"{self.start}switch"
        self._ports = [f"port{number}" for number in numbers]

    def set_up(self):
        for name in (*self.names, self._switch):
            call("ip", "netns", "add", name)
        call("ip", "-n", self._switch, "link", "add", "bridge", "up", "type", "bridge")
        for name, address, port in zip(self.names, self.addresses, self._ports, strict=True):
            peer = ["peer", "name", port, "netns", self._switch]
            call("ip", "-n", name, "link", "add", "eth0", "type", "veth", *peer)
            call("ip", "-n", self._switch, "link", "set", port, "master", "bridge", "up")
            call("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            # An address of IPv6 would be on trial for seconds.
            call("ip", "-n", name, "link", "set", "eth0", "addrgenmode", "none", "up")
            call("ip", "-n", name, "link", "set", "lo", "up")

    def take_down(self):
        for name in (*self.names, self._switch):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        # Open MPI leaves them behind when a job ends abnormally.
        for path in Path("/dev/shm").glob(f"sm_segment.{self.start}*"):
            path.unlink()

    def unplug(self, host):
        call("ip", "-n", self._switch, "link", "set", self._ports[host], "down")

    def limit(self, rate):
        """Let no link carry more than a rate such as "1gbit", in either direction."""
        for namespace, device in self._ends:
            limit = ["rate", rate, "burst", "128kb", "latency", "50ms"]
            call("tc", "-n", namespace, "qdisc", "add", "dev", device, "root", "tbf", *limit)

    def mend(self):
        """Have all links as they were at first."""
        for port in self._ports:
            call("ip", "-n", self._switch, "link", "set", port, "up")
        for namespace, device in self._ends:
            if "tbf" in call("tc", "-n", namespace, "qdisc", "show", "dev", device):
                call("tc", "-n", namespace, "qdisc", "del", "dev", device, "root")

    @property
    def _ends(self):
        hosts = [(name, "eth0") for name in self.names]
        return hosts + [(self._switch, port) for port in self._ports]

    def is_up(self):
        """Return whether all hosts know of their link; until then, MPI would not use it."""
        return all(self._link(name)["operstate"] == "UP" for name in self.names)

    def sent_bytes(self, host):
        """Return what a host has sent since the beginning, headers included."""
        return self._link(self.names[host])["stats64"]["tx"]["bytes"]

    def _link(self, name):
        (link,) = json.loads(call("ip", "-n", name, "-json", "-stats", "link", "show", "eth0"))
        return link

    def processes(self, host):
        """Return the numbers of a host's processes."""
        return set(map(int, call("ip", "netns", "pids", self.names[host]).split()))


class Hosts:
    """The hosts of a network, as a program's tests use them.

    Attributes
    ----------
    network : Network
        Theirs.
    family : str
        Of the MPI library.
    """

    def __init__(self, program, network):
        self.network = network
        self.family = library_family(library_version())
        self._program = program
        self._ssh = program.folder / "ssh"
        self._ssh.write_text(SSH.format(start=network.start, folder=program.folder))
        self._ssh.chmod(0o755)

    @property
    def launcher_options(self):
        """What tells mpiexec how to reach the other hosts."""
        if self.family == "Open MPI":
            return ["--mca", "plm_rsh_agent", str(self._ssh)]
        here = ["-localhost", self.network.addresses[0]]
        return [*here, "-launcher", "ssh", "-launcher-exec", str(self._ssh)]

    def placement(self, kind, hosts_of_ranks):
        """Return mpiexec's options for a placement.

        Parameters
        ----------
        kind : str
            "in turn", "host by host" or "unevenly", as each library is told of it.
        hosts_of_ranks : list of int
            Where the ranks are to be.
        """
        counts = Counter(self.network.addresses[host] for host in hosts_of_ranks)
        uneven = ",".join(f"{address}:{count}" for address, count in counts.items())
        if self.family == "Open MPI":
            by = {"in turn": "node", "host by host": "slot", "unevenly": "slot"}[kind]
            return ["--host", uneven, "--map-by", by]
        if kind == "unevenly":
            return ["-hosts", uneven]
        ranks_per_host = 1 if kind == "in turn" else max(counts.values())
        return ["-hosts", ",".join(counts), "-ppn", ranks_per_host]

    def set_profile(self, host, script):
        """Have a host other than the first run a script before whatever is started there."""
        (self._program.folder / self.network.names[host]).write_text(script)

    def running(self, command, **environment):
        """Start a command on the first host; see `Program.running`."""
        name = self.network.names[0]
        on_first = ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c",
                    f'hostname {name}; exec "$@"', "sh"]  # fmt: skip
        return self._program.running([*on_first, *command], **SETTINGS[self.family], **environment)

    def mpiexec(self, where, num_ranks, *arguments, **environment):
        """Start ranks of `lockstep ARGUMENTS...` by mpiexec itself; see `Program.running`.

        Parameters
        ----------
        where : list of str
            mpiexec's options for the placement.
        """
        python = Path(self._program.python)
        program = ["-n", num_ranks, python, "-m", "lockstep", *arguments]
        command = [python.with_name("mpiexec"), *self.launcher_options, *where, *program]
        # Without "slot", Open MPI would have all ranks on the first host.
        several = {"PRTE_MCA_rmaps_default_mapping_policy": "slot:oversubscribe"}
        return self.running(command, **(self._program.mpi_settings | several | environment))

    def lockstep(self, num_hosts, num_ranks, *arguments, options="", **environment):
        """Start `lockstep train ARGUMENTS...` with ranks on hosts; see `Program.running`."""
        program = Path(self._program.python).with_name("lockstep")
        options = f"--launcher-options={' '.join([*self.launcher_options, options])}"
        where = ["-n", num_ranks, "--hosts", ",".join(self.network.addresses[:num_hosts]), options]
        return self.running([program, "train", *arguments, *where], **environment)


@pytest.fixture
def network():
    """Three hosts with links between them, new ones: a link that was cut leaves traces in TCP."""
    if os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("tc")):
        pytest.skip("network namespaces need root and iproute2")
    network = Network()
    try:
        network.set_up()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces can't be made here: {error.stderr.strip()}")
    else:
        yield network
    finally:
        network.take_down()


@pytest.fixture
def hosts(program, network):
    """Return the hosts, as soon as they can reach each other."""
    program.wait_for(network.is_up)
    return Hosts(program, network)
