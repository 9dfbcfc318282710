"""What a run is doing: its job, how far it is, and when it will be done."""

import time
from contextlib import ExitStack
from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import Any

from lockstep.cluster.history import History
from lockstep.cluster.request import quoted
from lockstep.cluster.scheduler import JobState, SchedulerError
from lockstep.cluster.schedulers import SCHEDULERS
from lockstep.config import load_config
from lockstep.report.labels import duration
from lockstep.storage.checkpoint import CheckpointStore
from lockstep.storage.run_folder import (
    RunFolder,
    RunFolderTakenError,
    read_json,
    read_json_lines,
)

# Epochs that the rate is taken from.
_RECENT = 5


@dataclass(frozen=True)
class _Progress:
    """How far a run is.

    Parameters
    ----------
    step, num_steps : int
        Steps known to be done, and those of the whole run; 0 while that isn't known.
    epoch, num_epochs : int
        The same in epochs.
    epoch_s : float or None
        What an epoch takes.
    samples_per_s : float or None
        Training samples per second.
    """

    step: int
    num_steps: int
    epoch: int
    num_epochs: int
    epoch_s: float | None
    samples_per_s: float | None

    @property
    def remaining_s(self) -> float | None:
        """Seconds of training that are left, as far as that is known."""
        if self.epoch_s is None or not self.num_steps:
            return None
        return self.epoch_s * self.num_epochs * (1 - self.step / self.num_steps)


def status_text(folder: RunFolder) -> str:
    """Describe what a run is doing in a few lines.

    Parameters
    ----------
    folder : RunFolder
        Of a run that was begun, or submitted.
    """
    progress = _progress(folder)
    job, is_running = _job(folder)
    lines = {"Run": str(folder.path), "State": job, "Progress": _progress_text(progress)}
    if progress.samples_per_s is not None and progress.epoch_s is not None:
        rate = f"{progress.samples_per_s:,.0f} samples/s, {duration(progress.epoch_s)} per epoch"
        lines["Rate"] = rate
    if not folder.summary.exists():
        lines["Expected end"] = _end_text(progress, is_running=is_running)
    lines["Last checkpoint"] = _checkpoint_text(folder)
    return "\n".join(f"{name:16}{text}" for name, text in lines.items())


def _job(folder: RunFolder) -> tuple[str, bool]:
    """Return in words what the run's job or process does, and whether it trains."""
    last = History(folder).job()
    text, state = "", None
    if last is not None:
        text = f"{last['scheduler']} job {last['job']}"
        try:
            state = SCHEDULERS[last["scheduler"]].state(last["job"])
        except SchedulerError as error:
            text += f", of which can't be asked: {error}"
        else:
            text += _state_text(state, f"lockstep submit --resume {quoted(folder.path)}")
    if state and (state.is_running or state.is_waiting):
        return text, state.is_running
    if folder.summary.exists():
        return f"finished; see {folder.summary}", False
    if text:
        return text, False
    return ("training", True) if _is_locked(folder) else ("not running (on this host)", False)


def _state_text(state: JobState | None, remedy: str) -> str:
    """Return what is to be told of a job's state, and how to go on if it doesn't by itself."""
    if state is None:
        return f" is not in the queue any more. Go on with: {remedy}"
    parts = [f" is {state.name}"]
    if state.nodes:
        parts.append(f"on {state.nodes}")
    if state.reason:
        parts.append(f"({state.reason})")
    if state.is_waiting and state.start:
        parts.append(f"expected to begin {state.start}")
    if state.is_running and state.remaining_s is not None:
        parts.append(f"with {duration(state.remaining_s)} left")
    if not (state.is_running or state.is_waiting):
        parts.append(f"and won't go on by itself. Go on with: {remedy}")
    return " ".join(parts)


def _is_locked(folder: RunFolder) -> bool:
    with ExitStack() as stack:
        try:
            stack.enter_context(folder.lock())
        except RunFolderTakenError:
            return True
    return False


def _progress(folder: RunFolder) -> _Progress:
    config = load_config(folder.config, {})
    metrics = read_json_lines(folder.metrics) if folder.metrics.exists() else []
    last: dict[str, Any] = metrics[-1] if metrics else {"epoch": 0, "step": 0}
    steps_per_epoch = 0
    if folder.run.exists():
        num_rows = read_json(folder.run)["dataset"]["num_samples"]["train"]
        steps_per_epoch = ceil(num_rows / config.training.global_batch_size)
    recent = metrics[-_RECENT:]
    return _Progress(
        step=max(last["step"], CheckpointStore(folder.checkpoints).newest_step()),
        num_steps=steps_per_epoch * config.training.epochs,
        epoch=last["epoch"],
        num_epochs=config.training.epochs,
        epoch_s=median(line["epoch_s"] for line in recent) if recent else None,
        samples_per_s=median(line["samples_per_s"] for line in recent) if recent else None,
    )


def _progress_text(progress: _Progress) -> str:
    steps = f"step {progress.step:,}"
    if progress.num_steps:
        steps += f" of {progress.num_steps:,}"
    return f"{progress.epoch} of {progress.num_epochs} epochs done, {steps}"


def _end_text(progress: _Progress, *, is_running: bool) -> str:
    left_s = progress.remaining_s
    if left_s is None:
        return "known after the first epoch"
    if not is_running:
        return f"after {duration(left_s)} more of training"
    end = time.localtime(time.time() + left_s)
    return f"{time.strftime('%Y-%m-%d %H:%M', end)}, in {duration(left_s)}"


def _checkpoint_text(folder: RunFolder) -> str:
    path = CheckpointStore(folder.checkpoints).newest_path()
    if path is None:
        return "none yet"
    age_s = max(0.0, time.time() - path.stat().st_mtime)
    return f"{path.name}, {duration(age_s)} ago"
