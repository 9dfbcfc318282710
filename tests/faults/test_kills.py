"""Kills at any moment, and a run that ends with the same bits all the same.

`LOCKSTEP_SOAK=300 pytest tests/faults/test_kills.py` kills that often, instead of 20 times.
`LOCKSTEP_SOAK_SEED` names the seed of another course of events.
"""

import os
import random
import shutil
import time
from dataclasses import dataclass

import pytest

from lockstep.config import load_config
from lockstep.parallel.single import SingleProcess
from lockstep.storage.checkpoint import CheckpointStore
from lockstep.storage.run_folder import RunFolder, read_json_lines
from lockstep.train.run import run_training

NUM_KILLS = int(os.environ.get("LOCKSTEP_SOAK", "20"))
SEED = int(os.environ.get("LOCKSTEP_SOAK_SEED", "1"))
OPTIONS = {
    "virtual_ranks": "4",
    "hidden_widths": "96,64",
    "epochs": "40",
    "global_batch_size": "16",
    "checkpoint_every_steps": "7",
    "keep_checkpoints": "2",
}


@pytest.fixture(scope="module")
def uninterrupted(digits_file, tmp_path_factory, left_behind):
    config = load_config(None, OPTIONS | {"data": str(digits_file)})
    folder = run_training(config, SingleProcess(), tmp_path_factory.mktemp("whole"), "run").folder
    found = left_behind(folder.path)
    assert any(name.startswith("optimizer.") for name in found["arrays"])
    return found


@dataclass
class Kill:
    """When to kill, and whom."""

    num_ranks: int
    moment: str
    delay_s: float
    target: str

    @classmethod
    def at_random(cls, chance, *, is_new):
        num_ranks = chance.choice([1, 1, 2, 3, 4])
        # A new run first makes its folder, and then writes its configuration.
        early = ["folder", "config.toml", "checkpoints"] if is_new else ["start-up"]
        moment = chance.choice(["start-up", *early, "save", "save", "training", "training"])
        return cls(
            num_ranks,
            moment,
            chance.uniform(0, 1.0 if moment == "start-up" else 0.8),
            chance.choice(["root", "another", "all", "launcher"]),
        )

    def wait(self, job, folder):
        """Return whether the moment has come before the job's end."""
        if self.moment == "start-up":
            time.sleep(self.delay_s)
            return job.process.poll() is None
        checkpoints = folder / "checkpoints"
        if self.moment not in {"save", "training"}:
            awaited = folder if self.moment == "folder" else folder / self.moment
            return comes_true(job, awaited.exists)
        # A change of the file tells that this job, and none before it, has saved.
        before = time_of(checkpoints / "latest")
        if not comes_true(job, lambda: time_of(checkpoints / "latest") != before):
            return False
        time.sleep(self.delay_s)
        return comes_true(job, lambda: self.moment != "save" or is_saving(checkpoints))

    def __call__(self, job):
        ranks = list(job.ranks().values())
        hit = {"root": ranks[:1], "another": ranks[1:2], "all": ranks, "launcher": []}[self.target]
        for number in hit or [job.launcher]:
            job.kill(number)
        if not hit:
            # The ranks of a dead launcher may go on.
            job.kill_all()


def time_of(path):
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def is_saving(checkpoints):
    return any(path.name.startswith(".") for path in checkpoints.iterdir())


def comes_true(job, condition):
    """Return whether a condition comes true before the job's end."""
    while not condition():
        if job.process.poll() is not None:
            return False
        time.sleep(0.0005)
    return True


def newest_step(path, scratch):
    """Return the step of the newest checkpoint, and leave the mending to whoever resumes."""
    checkpoints = RunFolder(path).checkpoints
    if not checkpoints.exists():
        return -1
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(checkpoints, scratch)
    latest = scratch / "latest"
    promised = int(latest.read_text()[5:13]) if latest.exists() else -1
    checkpoint = CheckpointStore(scratch).newest(warn=pytest.fail)
    step = checkpoint.facts["step"] if checkpoint else -1
    assert step >= promised
    if checkpoint and checkpoint.facts["epoch"]:
        metrics = read_json_lines(RunFolder(path).metrics)
        assert len(metrics) >= checkpoint.facts["epoch"]
    return step


class Soak:
    """Trains runs, kills them, and goes on with them as a user would."""

    def __init__(self, program, data):
        self.program, self.data = program, data
        self.chance = random.Random(SEED)
        self.num_kills = 0

    def train(self, name):
        """Return a run's folder when the run is done."""
        path, scratch = self.program.folder / "results" / name, self.program.folder / "copy"
        step = -1
        while not self.session(path):
            newest = newest_step(path, scratch)
            print(f"  newest checkpoint: step {newest}")
            assert newest >= step
            step = newest
        return path

    def session(self, path):
        """Return whether the run is done."""
        is_last = self.num_kills == NUM_KILLS
        kill = None if is_last else Kill.at_random(self.chance, is_new=not path.exists())
        num_ranks = kill.num_ranks if kill else self.chance.randint(1, 2)
        is_own_launch = num_ranks == 1 or self.chance.random() < 0.5
        command = self.command(path)
        print(f"{' '.join(command[:3])} on {num_ranks}, {is_own_launch=}, {kill}", flush=True)
        if is_own_launch:
            started = self.program.started(*command, "-n", num_ranks)
        else:
            started = self.program.started_on_ranks(num_ranks, "-m", "lockstep", *command)
        with started as job:
            is_hit = kill is not None and kill.wait(job, path)
            if is_hit:
                kill(job)
                self.num_kills += 1
            # Where a rank was hit, the launcher ends by itself and takes the others along.
            exit_code = job.wait()
        print(f"  {is_hit=}, {exit_code=}")
        assert is_hit or exit_code == 0, job.stderr
        assert "Warning" not in job.stderr, job.stderr
        assert "Traceback" not in job.stderr, job.stderr
        return exit_code == 0

    def command(self, path):
        """Return what a user would do with the folder as it was left."""
        resume = ("train", "--resume", f"results/{path.name}")
        if (path / "config.toml").exists():
            return resume
        if path.exists():
            refused = self.program(*resume)
            assert refused.returncode == 2
            assert "is no run folder: it holds no config.toml" in refused.stderr
            shutil.rmtree(path)
        options = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
        return ("train", "--run-name", path.name, "--data", str(self.data), *options)


@pytest.mark.timeout(180 + 15 * NUM_KILLS)
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(
    program, digits_file, uninterrupted, left_behind
):
    soak = Soak(program, digits_file)
    print(f"LOCKSTEP_SOAK={NUM_KILLS} LOCKSTEP_SOAK_SEED={SEED}")
    while soak.num_kills < NUM_KILLS:
        path = soak.train(f"run-{soak.num_kills}")
        found = left_behind(path)
        assert [key for key in uninterrupted if found[key] != uninterrupted[key]] == []
        names = [file.name for file in (path / "checkpoints").iterdir()]
        assert len(names) <= 5, names
        assert not any(name.startswith(".") for name in names), names
