"""A training in a process of its own, which tells how much memory it has needed.

Run as `python -m lockstep.bench.memory_child CONFIG.toml STEPS [RESULTS]`; prints JSON. With a
folder for results it is a whole run, with checkpoints.
"""

import json
import resource
import sys
from dataclasses import asdict
from pathlib import Path

from threadpoolctl import threadpool_limits

from lockstep.bench.memory_measurement import MemoryUse
from lockstep.config import Config, load_config
from lockstep.parallel.single import SingleProcess
from lockstep.train.observers import EpochResult, Observer
from lockstep.train.requests import Requests
from lockstep.train.run import open_dataset, resolve, run_training
from lockstep.train.trainer import Trainer

_STATUS = Path("/proc/self/status")


class _EpochTime(Observer):
    """Keeps the time of the last epoch."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def epoch_done(self, result: EpochResult) -> None:
        self.seconds = result.epoch_s


def peak_resident_bytes() -> int:
    """Return the most memory that this process has had in RAM so far.

    Linux tells it of the program alone; `getrusage` counts what the process was before it became
    this program, a copy of its parent.
    """
    if _STATUS.exists():
        lines = _STATUS.read_text(encoding="utf-8").splitlines()
        entry = next(line for line in lines if line.startswith("VmHWM:"))
        return int(entry.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def train(config: Config, num_steps: int, results: Path | None) -> MemoryUse:
    """Train so many steps in this process.

    Parameters
    ----------
    config : Config
        The training.
    num_steps : int
        How many.
    results : Path, optional
        Where the run folder goes; without it, nothing is saved.
    """
    imports_bytes = setup_bytes = peak_resident_bytes()
    requests, epoch = Requests(stop_after=num_steps), _EpochTime()
    if results:
        run_training(config, SingleProcess(), results, "run", requests, quiet=True)
    else:
        with threadpool_limits(1, user_api="blas"), open_dataset(config) as dataset:
            trainer = Trainer(resolve(config, 1), dataset, SingleProcess(), epoch, requests)
            setup_bytes = peak_resident_bytes()
            trainer.train()
    return MemoryUse(imports_bytes, setup_bytes, peak_resident_bytes(), epoch.seconds)


if __name__ == "__main__":
    config_file, steps, *folders = sys.argv[1:]
    folder = Path(folders[0]) if folders else None
    use = train(load_config(Path(config_file), {}), int(steps), folder)
    print(json.dumps(asdict(use)))  # noqa: T201 - for the process that has started this one
