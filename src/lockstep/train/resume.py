"""Going on with a run from its newest checkpoint, on any number of ranks."""

import json
from dataclasses import asdict
from typing import Any

import click
import numpy as np

from lockstep.config import FIELDS, Config
from lockstep.data.dataset_file import DatasetFile
from lockstep.errors import UserError
from lockstep.parallel.communicator import Communicator
from lockstep.parallel.verdict import on_root
from lockstep.storage.checkpoint import Checkpoint, CheckpointStore
from lockstep.storage.run_folder import RunFolder
from lockstep.train.model import check_run_facts

# What a run may be resumed with another value of. All the rest says what the run is.
_MAY_CHANGE = {
    "data",
    "stage",
    "epochs",
    "patience",
    "checkpoint_every_steps",
    "checkpoint_every_minutes",
    "keep_checkpoints",
    "replica_check_every",
    "stall_timeout_s",
    "on_nonfinite",
    "trace",
}


def newest_checkpoint(
    folder: RunFolder, config: Config, dataset: DatasetFile, communicator: Communicator
) -> Checkpoint | None:
    """Read the newest checkpoint on the root rank, and give it to all; collective.

    Parameters
    ----------
    folder : RunFolder
        The run.
    config : Config
        Resolved: what the run is to go on with.
    dataset : DatasetFile
        Open.
    communicator : Communicator
        The ranks. Only the root needs to see the checkpoints.

    Returns
    -------
    Checkpoint or None
        None when the run ended before it could save its first one.

    Raises
    ------
    SharedError
        When no checkpoint is whole, or the run would not be the same any more.
    """

    def read() -> Checkpoint | None:
        store = CheckpointStore(folder.checkpoints)
        checkpoint = store.newest(lambda message: click.echo(f"Warning: {message}", err=True))
        if checkpoint is None and folder.metrics.exists():
            raise UserError(
                f"There is no checkpoint in {folder.checkpoints} to go on from. Reference results "
                f"are kept without theirs; train the run again: lockstep train {folder.config}"
            )
        if checkpoint is not None:
            _check_same_run(checkpoint, config, dataset)
        return checkpoint

    return share(communicator, on_root(communicator, read), source=0)


def _check_same_run(checkpoint: Checkpoint, config: Config, dataset: DatasetFile) -> None:
    """Refuse to go on with what would be another run.

    Raises
    ------
    UserError
        Naming every difference.
    """
    facts = checkpoint.facts
    if "config" not in facts:
        raise UserError(
            "The run's checkpoints were written by an older Lockstep, which could not resume. "
            "They can be evaluated, but not trained on."
        )
    check_run_facts(checkpoint)
    differences = []
    new = json.loads(json.dumps(asdict(config)))
    for info in FIELDS.values():
        # What the run's Lockstep didn't know yet was done as it is by default.
        default = json.loads(json.dumps(info.default))
        before = facts["config"].get(info.section, {}).get(info.name, default)
        now = new[info.section][info.name]
        is_shorter = info.name == "epochs" and now < before
        if before != now and (is_shorter or info.name not in _MAY_CHANGE):
            differences.append(f"{info.section}.{info.name} was {before}, now it is {now}")
    if facts["dataset_sha256"] != dataset.info.content_sha256:
        differences.append(
            f"the data in {dataset.path} are not those that it was trained on (content sha256 was "
            f"{facts['dataset_sha256'][:12]}..., now it is {dataset.info.content_sha256[:12]}...)"
        )
    if differences:
        raise UserError(
            "\n  ".join(["The run can't go on, for it would be another one:", *differences])
            + "\nResume it as it was, or begin a new run (without --resume)."
        )


def share(
    communicator: Communicator, checkpoint: Checkpoint | None, source: int
) -> Checkpoint | None:
    """Give one rank's checkpoint to all ranks; collective."""
    arrays: dict[str, Any] = {}
    text = ""
    if checkpoint is not None and communicator.rank == source:
        arrays = {name: np.asarray(array) for name, array in checkpoint.arrays.items()}
        forms = {name: (array.dtype.str, array.shape) for name, array in arrays.items()}
        text = json.dumps((checkpoint.facts, forms))
    text = communicator.gather_texts(text)[source]
    if not text:
        return None
    facts, forms = json.loads(text)
    shared = {
        name: communicator.gather_rows(arrays[name].ravel() if arrays else np.empty(0, dtype))
        for name, (dtype, _) in forms.items()
    }
    return Checkpoint({name: shared[name].reshape(forms[name][1]) for name in shared}, facts)
