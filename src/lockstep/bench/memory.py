"""How much memory a rank needs at most, by the size of the data and of the model."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from shutil import disk_usage
from tempfile import TemporaryDirectory, gettempdir

import click
from threadpoolctl import threadpool_limits

from lockstep.bench.case import Case, steps_only
from lockstep.bench.environment import environment
from lockstep.bench.made_up import NUM_CLASSES, NUM_FEATURES, NUM_ROWS, write_made_up
from lockstep.bench.memory_measurement import MemoryMeasurement, MemoryUse
from lockstep.bench.rounds import take_turns
from lockstep.config import Config, Data, Optimization, OptimizerName, to_toml
from lockstep.data.dataset_file import LABEL_DTYPE, DatasetFile
from lockstep.data.memory import MEGABYTE
from lockstep.errors import UserError
from lockstep.parallel.single import SingleProcess
from lockstep.storage.run_folder import make_folder
from lockstep.train.blueprint import memory_budget, network_of
from lockstep.train.run import resolve

OPTIMIZERS: tuple[OptimizerName, ...] = ("sgd", "adamw")
_ROW_BYTES = NUM_FEATURES + LABEL_DTYPE.itemsize
# Of a model, to have used every buffer; those of a data set are a whole epoch.
_MODEL_STEPS = 5
# The parameters and both moments of Adam in float32, in the first checkpoint and in the last.
_CHECKPOINT_BYTES_PER_PARAMETER = 2 * 3 * 4
# For all that is small.
_BESIDE_BYTES = 10 * MEGABYTE


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Parameters
    ----------
    data_mb : tuple of int
        Sizes of data sets, in megabytes of 1,000,000 bytes.
    data_case : Case
        What is trained on them.
    budget_mb : int
        What a rank may use for the data.
    model_cases : tuple of Case
        Networks, which are trained on a small data set.
    """

    data_mb: tuple[int, ...]
    data_case: Case
    budget_mb: int
    model_cases: tuple[Case, ...]


_WIDE = ((128,), (512, 512), (1024, 1024), (2048, 2048), (2500, 2000, 1500, 1000, 500))
PLAN = Plan((64, 256, 1000), Case((32,), 256), 256, tuple(Case(widths, 128) for widths in _WIDE))
_LARGE_MB = 2000
# For a quick look at whether all works.
TINY_PLAN = Plan((1, 4), Case((8,), 256), 2, (Case((8,), 32), Case((64, 64), 32)))


@dataclass(frozen=True)
class Trial:
    """A training that is to be measured."""

    case: Case
    optimizer: OptimizerName
    data: Path
    budget_mb: int
    num_steps: int
    is_saved: bool

    @property
    def config(self) -> Config:
        """The training."""
        optimization = Optimization(
            optimizer=self.optimizer, schedule="constant", learning_rate=0.001
        )
        data = Data(data=str(self.data), memory_budget_mb=self.budget_mb)
        return replace(steps_only(self.case, optimization), data=data)


def with_large_data(plan: Plan) -> Plan:
    """Return the plan with one more data set."""
    return replace(plan, data_mb=(*plan.data_mb, _LARGE_MB))


def benchmark_memory(plan: Plan, num_rounds: int, out: Path, command: str) -> None:
    """Measure, tell the figures, and write them to a folder.

    Parameters
    ----------
    plan : Plan
        What is measured.
    num_rounds : int
        In each, every training has its turn, in a process of its own.
    out : Path
        The folder for `memory.json`, `memory.md` and `memory.png`.
    command : str
        What repeats the benchmark.

    Raises
    ------
    UserError
        When the folder can't be made, or the folder for temporary files has too little room.
    """
    make_folder(out)
    # The trainings have a thread each.
    with threadpool_limits(1, user_api="blas"):
        facts = environment(SingleProcess(), command)
    with TemporaryDirectory(prefix="lockstep-bench-") as name:
        folder = Path(name)
        check_room(folder, needed_bytes(plan))
        data = _measure_data(plan, num_rounds, folder)
        models = _measure_models(plan, num_rounds, folder)

    from lockstep.bench.memory_report import publish  # noqa: PLC0415 - plots

    publish(data, models, facts, out)


def needed_bytes(plan: Plan) -> int:
    """Return the room that the data sets and the largest checkpoints need."""
    widths = (NUM_FEATURES, *plan.model_cases[-1].hidden_widths, NUM_CLASSES)
    num_weights = sum(fan_in * fan_out for fan_in, fan_out in pairwise(widths))
    data_bytes = sum(plan.data_mb) * MEGABYTE + NUM_ROWS * _ROW_BYTES
    return data_bytes + num_weights * _CHECKPOINT_BYTES_PER_PARAMETER + _BESIDE_BYTES


def check_room(folder: Path, num_bytes: int) -> None:
    """See that the data fit on the disk.

    Raises
    ------
    UserError
        When they don't.
    """
    free = disk_usage(folder).free
    if free < num_bytes:
        raise UserError(
            f"{gettempdir()} has {free // MEGABYTE} MB free, and the data sets to measure with "
            f"need {-(-num_bytes // MEGABYTE)} MB. Make room, or name another folder for temporary "
            "files: TMPDIR=/scratch lockstep bench memory"
        )


def _measure_data(plan: Plan, num_rounds: int, folder: Path) -> list[MemoryMeasurement]:
    trials = []
    for megabytes in plan.data_mb:
        path = folder / f"{megabytes}.h5"
        num_rows = megabytes * MEGABYTE // _ROW_BYTES
        write_made_up(path, num_rows)
        click.echo(f"Wrote a data set of {megabytes} MB")
        num_steps = -(-num_rows // plan.data_case.global_batch_size)
        trials.append(Trial(plan.data_case, "sgd", path, plan.budget_mb, num_steps, is_saved=False))
    return measure(trials, num_rounds, folder)


def _measure_models(plan: Plan, num_rounds: int, folder: Path) -> list[MemoryMeasurement]:
    path = folder / "small.h5"
    write_made_up(path, NUM_ROWS)
    trials = [
        Trial(case, optimizer, path, plan.budget_mb, _MODEL_STEPS, is_saved)
        for optimizer in OPTIMIZERS
        for is_saved in (False, True)
        for case in plan.model_cases
    ]
    return measure(trials, num_rounds, folder)


def measure(trials: Sequence[Trial], num_rounds: int, folder: Path) -> list[MemoryMeasurement]:
    """Measure trainings, round by round.

    Parameters
    ----------
    trials : sequence of Trial
        The trainings.
    num_rounds : int
        How many rounds.
    folder : Path
        For temporary files.
    """
    turns = take_turns(
        {str(number): partial(run, trial, folder) for number, trial in enumerate(trials)},
        num_rounds,
    )
    return [_measurement(trial, turns[str(number)]) for number, trial in enumerate(trials)]


def run(trial: Trial, folder: Path) -> MemoryUse:
    """Run a training in a process of its own.

    Raises
    ------
    UserError
        When that has failed, with what it has told.
    """
    config_file = folder / "config.toml"
    config_file.write_text(to_toml(trial.config), encoding="utf-8")
    with TemporaryDirectory(dir=folder) as results:
        words = [sys.executable, "-m", "lockstep.bench.memory_child", str(config_file)]
        words += [str(trial.num_steps), *([results] if trial.is_saved else [])]
        done = subprocess.run(  # noqa: S603 - our own interpreter
            words, capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()
        raise UserError(
            f"The training of {trial.case.hidden_widths} on {trial.data.name} has ended with exit "
            f"code {done.returncode} ({reason[-1] if reason else 'killed, for want of memory?'})."
        )
    return MemoryUse(**json.loads(done.stdout.splitlines()[-1]))


def _measurement(trial: Trial, uses: list[MemoryUse]) -> MemoryMeasurement:
    config = resolve(trial.config, world_size=1)
    with DatasetFile.open(trial.data) as dataset:
        network = network_of(config, dataset.info)
        num_rows = dataset.info.num_samples["train"]
        is_in_blocks = not memory_budget(config, dataset).fits("train", num_rows)
    return MemoryMeasurement(
        network=str(network),
        num_parameters=network.num_parameters,
        global_batch_size=trial.case.global_batch_size,
        optimizer=trial.optimizer,
        num_rows=num_rows,
        data_bytes=trial.data.stat().st_size,
        budget_bytes=trial.budget_mb * MEGABYTE,
        is_in_blocks=is_in_blocks,
        is_saved=trial.is_saved,
        uses=uses,
    )
