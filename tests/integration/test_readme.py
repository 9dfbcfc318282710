"""Every command of the README, run in its order in one folder."""

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lockstep.parallel.launch import library_family, library_version

ROOT = Path(__file__).parents[2]
INJECT = ROOT / "tests" / "faults" / "programs" / "inject"


def blocks_of(language):
    text = (ROOT / "README.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


BLOCKS = blocks_of("sh")
# The two commands of the set-up are run by .ci/run, which starts from a fresh clone, and the job
# by the tests in tests/cluster.
SETUP = [block for block in BLOCKS if block.startswith("sh launch/")]
CLUSTER = [block for block in BLOCKS if block.startswith(("sbatch", "lockstep submit"))]
WITH_MNIST = [block for block in BLOCKS if "mnist" in block]
WITH_OPEN_MPI = [block for block in BLOCKS if "--with-ft" in block]
OTHERS = [block for block in BLOCKS if block not in SETUP + CLUSTER + WITH_MNIST + WITH_OPEN_MPI]


@pytest.fixture
def shell(program):
    """Runs commands where launch/ and data/ are, as in the repository."""
    (program.folder / "launch").symlink_to(ROOT / "launch")
    (program.folder / "data").mkdir()
    path = f"{Path(program.python).parent}{os.pathsep}{os.environ['PATH']}"

    def run(commands, **environment):
        environment = {"PATH": path, **program.mpi_settings, **environment}
        done = program.run(["sh", "-eu", "-c", commands], **environment)
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    run.folder = program.folder
    return run


def make_flowers(folder):
    generator = np.random.default_rng(0)
    species = np.repeat(["daisy", "rose", "tulip"], 30)
    sizes = generator.normal(np.repeat([[1, 5], [3, 2], [6, 4]], 30, axis=0), 0.5)
    rows = [f"{a:.2f},{b:.2f}" for a, b in sizes]
    lines = [f"{row},{name}" for row, name in zip(rows, species, strict=True)]
    (folder / "flowers.csv").write_text("\n".join(["height,width,species", *lines]) + "\n")
    (folder / "new-flowers.csv").write_text("\n".join(["height,width", *rows[::10]]) + "\n")


def make_photos(folder):
    generator = np.random.default_rng(0)
    for name, level in (("dark", 40), ("light", 200)):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(10):
            pixels = generator.normal(level, 20, (40, 48, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{number}.png")


@pytest.mark.timeout(600)
def test_the_commands(shell):
    make_flowers(shell.folder)
    make_photos(shell.folder)
    np.savez(
        shell.folder / "arrays.npz", x=np.random.default_rng(0).random((40, 3)), y=np.arange(40) % 2
    )
    shell("lockstep convert digits data/digits.h5")
    told = "".join(shell(block) for block in OTHERS)
    digests = re.findall(r"weights_sha256: (\w+)", told)
    # One process, four ranks and two ranks.
    assert len(set(digests[:3])) == 1
    # The flowers, the two of the ensemble, a run, the same with more epochs, and once again with
    # nothing left to do.
    _, _, _, first, longer, again, restarted, one, two = digests[3:]
    assert first != longer == again
    assert restarted == digests[0]
    assert one == two
    assert "rose" in told
    assert told.count("The same bits in all") == 2
    assert "The runs are the same, bit for bit" in told


@pytest.mark.skipif(
    library_family(library_version()) != "Open MPI", reason="only Open MPI survives a death"
)
def test_the_command_whose_ranks_survive(shell):
    shell("lockstep convert digits data/digits.h5")
    whole = shell("lockstep train launch/presets/digits.toml")
    (command,) = WITH_OPEN_MPI
    found = shell(command, PYTHONPATH=str(INJECT), LOCKSTEP_FAULT="1,40,SIGKILL,killed")
    assert (shell.folder / "killed").exists()
    assert "Going on after step 39" in found
    digests = [re.findall(r"weights_sha256: (\w+)", told) for told in (whole, found)]
    assert digests[0] == digests[1] != []


def test_the_program(shell, program):
    shell("lockstep convert digits data/digits.h5")
    (text,) = blocks_of("python")
    (shell.folder / "own.py").write_text(text)
    assert "ranks 2, virtual ranks 4" in shell("mpiexec -n 2 python own.py")
    assert program.summary("own")["num_epochs"] == 3


def test_the_jobs_are_run_on_a_real_scheduler():
    tested = (ROOT / "tests" / "cluster" / "test_slurm.py").read_text()
    assert len(CLUSTER) == 5
    assert 'startswith(("sbatch", "lockstep submit"))' in tested


def test_the_set_up_is_run_by_ci():
    told = (ROOT / ".ci" / "run").read_text()
    assert SETUP
    for block in SETUP:
        script = block.split()[1]
        assert script in told
        subprocess.run(["sh", "-n", ROOT / script], check=True)


@pytest.mark.mnist
def test_the_commands_on_mnist(shell, program, mnist_folder):
    program.timeout_s = 800
    (shell.folder / "results").mkdir()
    (shell.folder / "results" / "mnist").symlink_to(ROOT / "results" / "mnist")
    # The folder stands in for the download, and two epochs for the whole training.
    commands = "".join(WITH_MNIST)
    first = "lockstep convert mnist data/mnist.h5\n"
    fetched = first + commands.replace(first, "")
    fetched = fetched.replace("convert mnist", f"convert {mnist_folder}")
    quick = re.sub(r"^(lockstep train .*)$", r"\1 --epochs 2", fetched, flags=re.MULTILINE)
    assert quick.count("--epochs 2") == 6
    assert shell(quick).count("Test accuracy") == 6
