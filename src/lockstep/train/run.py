"""A whole run: from a configuration to a finished run folder."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from threadpoolctl import threadpool_limits

from lockstep.config import Config, load_config
from lockstep.data.dataset_file import DatasetFile
from lockstep.errors import UserError
from lockstep.parallel.communicator import Communicator
from lockstep.parallel.verdict import together
from lockstep.storage.checkpoint import CheckpointStore
from lockstep.storage.run_folder import RunFolder
from lockstep.train import fingerprint
from lockstep.train.evaluation import Evaluation
from lockstep.train.model import Model, load_model
from lockstep.train.observers import Console, Observer, Observers
from lockstep.train.record import RunRecord
from lockstep.train.scores import scores
from lockstep.train.trainer import Trainer, network_of


def run_training(
    config: Config, communicator: Communicator, results: Path, name: str = ""
) -> RunFolder:
    """Train and test, and fill the run folder apart from plots and page; collective.

    Parameters
    ----------
    config : Config
        As the user gave it.
    communicator : Communicator
        The ranks.
    results : Path
        Where run folders live.
    name : str
        Of the run folder; made up of the data set's name and the time when empty.

    Returns
    -------
    RunFolder
        The new folder, written to by the root rank.

    Raises
    ------
    SharedError
        On all ranks alike, when anything that the user gave won't do.
    """
    with threadpool_limits(config.training.threads_per_rank, user_api="blas"):
        resolved = together(communicator, lambda: resolve(config, communicator.world_size))
        with together(communicator, lambda: open_dataset(resolved)) as dataset:
            name = name or f"{dataset.info.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
            path = results / communicator.gather_texts(name)[0]
            folder = together(communicator, lambda: _claim(path, communicator))
            environment = _environment(communicator)
            observer = Observer()
            if communicator.rank == 0:
                record = RunRecord(folder, resolved, dataset, environment)
                observer = Observers([Console(), record])
                _announce(resolved, dataset, communicator, path)
            trainer = together(
                communicator, lambda: Trainer(resolved, dataset, communicator, observer)
            )
            trainer.train()
    return folder


def _announce(config: Config, dataset: DatasetFile, communicator: Communicator, path: Path) -> None:
    network = network_of(config, dataset.info)
    num_rows = dataset.info.num_samples["train"]
    click.echo(
        f"Training {network} ({network.num_parameters:,} parameters) on {num_rows:,} rows of "
        f"{dataset.path}: {communicator.world_size} of at most {config.training.virtual_ranks} "
        f"ranks, in {path}"
    )


def run_model(run: RunFolder) -> Model:
    """Return the weights of a run that were tested: its best or its last, as configured.

    Raises
    ------
    UserError
        When the run has no checkpoint, or a damaged one.
    """
    tested = load_config(run.config, {}).training.tested_weights
    which = "best" if tested == "best" else "latest"
    return load_model(CheckpointStore(run.checkpoints).load(which))


def evaluate_run(
    run: RunFolder, data: Path | None, split: str, communicator: Communicator
) -> dict[str, Any]:
    """Score a run's tested weights on a split; collective.

    Parameters
    ----------
    run : RunFolder
        A run with its checkpoints.
    data : Path, optional
        Another data set than the run's own.
    split : str
        "train", "validation" or "test".
    communicator : Communicator
        The ranks.

    Returns
    -------
    dict
        See `lockstep.train.scores.scores`.

    Raises
    ------
    SharedError
        When there is no checkpoint, or the data don't fit the network.
    """

    def prepare() -> tuple[Config, Model, DatasetFile]:
        config = load_config(run.config, {"data": str(data)} if data else {})
        model = run_model(run)
        dataset = open_dataset(config)
        _check_fit(model, dataset, split)
        return config, model, dataset

    config, model, dataset = together(communicator, prepare)
    with dataset, threadpool_limits(config.training.threads_per_rank, user_api="blas"):
        # Counts are the same for any number of virtual ranks, so more ranks are fine here.
        virtual_ranks = max(config.training.virtual_ranks, communicator.world_size)
        evaluation = together(
            communicator,
            lambda: Evaluation(
                model.network, dataset, split, model.scaling, communicator, virtual_ranks
            ),
        )
        return scores(evaluation.examine(model.parameters), model.class_names)


def _check_fit(model: Model, dataset: DatasetFile, split: str) -> None:
    info = dataset.info
    if info.feature_shape != model.feature_shape or info.class_names != model.class_names:
        raise UserError(
            f"{dataset.path} doesn't fit the run: its samples are {info.feature_shape} with "
            f"{info.num_classes} classes, those of the run {model.feature_shape} with "
            f"{len(model.class_names)}, and the class names must be the same too."
        )
    if not info.num_samples[split]:
        raise UserError(f"{dataset.path} has no rows in its {split} split. Choose another --split.")


def resolve(config: Config, world_size: int) -> Config:
    """Fill in what depends on the number of ranks, and check that it fits.

    Raises
    ------
    UserError
        When there are more ranks than virtual ranks, or fewer samples in a step than that.
    """
    training = config.training
    virtual_ranks = training.virtual_ranks or world_size
    if world_size > virtual_ranks:
        raise UserError(
            f"There are {world_size} ranks, but virtual_ranks = {virtual_ranks}, and each rank "
            f"needs at least one. Start at most {virtual_ranks} ranks, or begin a new run with "
            f"--virtual-ranks {world_size} (which gives other bits)."
        )
    if training.global_batch_size < virtual_ranks:
        raise UserError(
            f"global_batch_size = {training.global_batch_size} is less than virtual_ranks = "
            f"{virtual_ranks}, so some of them would never train. Raise the one or lower the other."
        )
    return replace(config, training=replace(training, virtual_ranks=virtual_ranks))


def open_dataset(config: Config) -> DatasetFile:
    """Open the configured data set.

    Raises
    ------
    UserError
        When none is configured, it can't be opened, or there is nothing to train on.
    """
    if not config.data.data:
        raise UserError(
            'No data set is named. Give one with --data FILE.h5, or as data = "FILE.h5" under '
            "[data]. `lockstep convert digits data/digits.h5` makes a small one."
        )
    dataset = DatasetFile.open(Path(config.data.data))
    if not dataset.info.num_samples["train"]:
        raise UserError(f"{dataset.path} has no training rows.")
    return dataset


def _claim(path: Path, communicator: Communicator) -> RunFolder:
    """Make the folder on the root rank; the others only need its name."""
    return RunFolder.create(path) if communicator.rank == 0 else RunFolder(path)


def _environment(communicator: Communicator) -> dict[str, Any]:
    return {
        "world_size": communicator.world_size,
        "hosts": fingerprint.hosts(communicator),
        "versions": fingerprint.versions(communicator),
        "blas": fingerprint.blas(),
        "machine": fingerprint.machine(),
    }
