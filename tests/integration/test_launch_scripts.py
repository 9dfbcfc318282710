"""What the set-up scripts say when they can't do their work; .ci/run shows them doing it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clone(tmp_path):
    """What the scripts need of the repository, in a folder with a space in its name."""
    folder = tmp_path / "a clone"
    shutil.copytree(ROOT / "launch", folder / "launch")
    shutil.copytree(ROOT / "src", folder / "src")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def quickstart(clone, **environment):
    return subprocess.run(
        ["sh", clone / "launch" / "quickstart.sh"], cwd="/", capture_output=True, text=True,
        env={**os.environ, **environment}, timeout=120, check=False,
    )  # fmt: skip


def fake_python(folder, body):
    folder.mkdir()
    for name in ("python", *(f"python3{minor}" for minor in ("", ".11", ".12", ".13", ".14"))):
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def test_too_old_a_python_is_named_with_the_remedy(clone, tmp_path):
    old = 'case "$*" in --version) echo Python 3.8.18;; *) exit 1;; esac'
    done = quickstart(clone, PATH=fake_python(tmp_path / "old", old), PYTHON="")
    assert done.returncode == 1
    assert "needs Python 3.11 or newer, but python3 is Python 3.8.18" in done.stderr
    assert "PYTHON=" in done.stderr
    assert not (clone / ".venv").exists()


def test_a_python_that_was_named_is_not_replaced_by_another(clone):
    done = quickstart(clone, PYTHON="/no/such/python")
    assert done.returncode == 1
    assert "but /no/such/python is nothing that is a Python" in done.stderr


def test_no_network_is_named_as_the_likely_cause(clone):
    # Nothing listens on the discard port of this machine.
    done = quickstart(clone, PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_NO_CACHE_DIR="1",
                      PIP_RETRIES="0", PIP_FIND_LINKS="", PIP_CONFIG_FILE=os.devnull,
                      PIP_EXTRA_INDEX_URL="")  # fmt: skip
    assert done.returncode == 1
    assert "Is there a network" in done.stderr


def test_a_folder_of_the_user_is_never_emptied(clone):
    (clone / ".venv").mkdir()
    (clone / ".venv" / "thesis.txt").write_text("all my work")
    done = quickstart(clone)
    assert done.returncode == 1
    assert "was not made by this script" in done.stderr
    assert (clone / ".venv" / "thesis.txt").read_text() == "all my work"


@pytest.fixture
def digest(program, digits_file):
    """Run a script of launch/ for some epochs of the digits, and return the digest of its weights.

    Without a script, Lockstep runs as a single process.
    """
    path = f"{Path(program.python).parent}{os.pathsep}{os.environ['PATH']}"

    def run(name, *arguments, **environment):
        options = [ROOT / "launch" / "presets" / "digits.toml", "--data", digits_file, "--epochs",
                   "3", "--run-name", name]  # fmt: skip
        command = ["sh", ROOT / "launch" / name, *arguments] if arguments else ["lockstep", "train"]
        if name == "local.sh":
            command = ["sh", ROOT / "launch" / name]
        done = program.run([*command, *options], PATH=path, **program.mpi_settings, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout, program.summary(name)["weights_sha256"]

    return run


def test_the_scripts_for_one_machine_and_for_some_hosts_give_the_same_bits(program, digest):
    hosts = program.folder / "hosts.txt"
    hosts.write_text("# the cluster\n\nlocalhost   # and no other\n")
    local, found = digest("local.sh", RANKS="4")
    assert ": ranks 4, virtual ranks 4" in local
    told, other = digest("hosts.sh", hosts, RANKS_PER_HOST="3")
    assert ": ranks 3, virtual ranks 4" in told
    _, expected = digest("alone")
    assert found == other == expected


@pytest.fixture
def launched(tmp_path):
    """Run a script of launch/ and return what it would have `lockstep` do.

    Other commands are replaced by shell scripts.
    """

    def run(name, *arguments, commands, **environment):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for command, body in {**commands, "lockstep": 'echo "$OMP_NUM_THREADS: $*"'}.items():
            (folder / command).write_text(f"#!/bin/sh\n{body}\n")
            (folder / command).chmod(0o755)
        path = f"{folder}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["sh", ROOT / "launch" / name, *arguments], cwd=tmp_path, capture_output=True,
            text=True, env={**os.environ, "PATH": path, **environment}, timeout=60, check=False,
        )  # fmt: skip

    return run


@pytest.mark.parametrize(
    ("cores_of_cpus", "usable", "threads", "num_ranks"),
    [
        ("0 1 2 3", 4, 1, 4),
        ("0 0 1 1 2 2 3 3", 8, 1, 4),
        ("0 0 1 1 2 2 3 3", 8, 2, 2),
        ("0 1 2 3", 3, 1, 3),
        # Where there is no lscpu.
        ("", 8, 1, 8),
    ],
)
def test_a_rank_for_each_physical_core_unless_it_has_more_threads(
    launched, cores_of_cpus, usable, threads, num_ranks
):
    lscpu = f"echo '# Core'; printf '%s\\n' {cores_of_cpus}" if cores_of_cpus else "exit 127"
    commands = {"lscpu": lscpu, "nproc": f"echo {usable}"}
    done = launched("local.sh", "my.toml", commands=commands, THREADS=str(threads))
    assert done.stdout == f"{threads}: train my.toml -n {num_ranks} --restarts 0\n", done.stderr


def test_hosts_are_those_of_the_file(launched, tmp_path):
    (tmp_path / "hosts").write_text("# all\nb  slots=9\n\na\nb # again\n")
    done = launched("hosts.sh", "hosts", "my.toml", "--epochs", "3", commands={})
    assert done.stdout == "1: train my.toml --epochs 3 -n 4 --hosts b,a --restarts 0\n", done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "The file of hosts comes first"),
        (["none", "my.toml"], "none names no host"),
        (["empty", "my.toml"], "empty names no host"),
    ],
)
def test_without_hosts_nothing_runs_on_this_machine_instead(launched, tmp_path, arguments, message):
    (tmp_path / "empty").write_text("# to come\n")
    done = launched("hosts.sh", *arguments, commands={})
    assert done.returncode != 0
    assert message in done.stderr
    assert not done.stdout


@pytest.mark.parametrize("script", sorted(ROOT.glob("launch/*.s[hb]*")), ids=lambda path: path.name)
def test_each_script_is_one_for_its_shell(script):
    shell = script.read_text().partition("\n")[0]
    shell = "bash" if "bash" in shell else "sh"
    done = subprocess.run([shell, "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("name", "mark"), [("slurm.sbatch", "#SBATCH"), ("pbs.sh", "#PBS")])
def test_no_directive_comes_after_the_first_command(name, mark):
    # Schedulers don't read any further.
    lines = (ROOT / "launch" / name).read_text().splitlines()
    first_command = next(n for n, line in enumerate(lines) if line and not line.startswith("#"))
    directives = [n for n, line in enumerate(lines) if line.startswith(mark)]
    assert len(directives) > 4
    assert max(directives) < first_command
