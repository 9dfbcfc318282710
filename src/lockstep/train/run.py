"""A whole run: from a configuration to a finished run folder."""

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

import lockstep
from lockstep.config import Config, load_config
from lockstep.data.dataset_file import DatasetFile
from lockstep.data.staging import stage
from lockstep.errors import SharedError, UserError
from lockstep.parallel.communicator import Communicator
from lockstep.parallel.verdict import on_root, rank_names, together
from lockstep.storage.checkpoint import CheckpointStore
from lockstep.storage.run_folder import RunFolder
from lockstep.train import fingerprint
from lockstep.train.blueprint import memory_budget, rate_factor, sharding_of, strengths_of
from lockstep.train.evaluation import Evaluation
from lockstep.train.model import Model, load_model
from lockstep.train.requests import Requests
from lockstep.train.resume import newest_checkpoint
from lockstep.train.room import check_room
from lockstep.train.scores import scores
from lockstep.train.session import Run, Session, blas_threads


def run_training(
    config: Config,
    communicator: Communicator,
    results: Path,
    name: str = "",
    requests: Requests | None = None,
    *,
    quiet: bool = False,
) -> Run:
    """Train and test, and fill a new run folder apart from plots and page; collective.

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
    requests : Requests, optional
        What is asked of the training from outside.
    quiet : bool
        Whether nothing is printed, apart from warnings.

    Returns
    -------
    Run
        With its new folder, written to by the root rank.

    Raises
    ------
    SharedError
        On all ranks alike, when anything that the user gave won't do.
    """
    resolved = together(communicator, lambda: resolve(config, communicator.world_size))
    with together(communicator, lambda: open_dataset(resolved)) as original:
        _check_agreement(communicator, resolved, original)
        together(communicator, original.check_training_classes)
        check_room(resolved, original.info, communicator)
        # Before there is a run folder, for it may fail, and take its time.
        with _staged(communicator, resolved, original, quiet=quiet) as dataset:
            folder = _claim_folder(communicator, results, name, dataset.info.name)
            session = Session(folder, resolved, requests or Requests(), quiet=quiet)
            with session.hold(communicator):
                return session.train(communicator, dataset, None)


def resume_training(
    path: Path,
    options: Mapping[str, str],
    communicator: Communicator,
    requests: Requests | None = None,
    changes: Path | None = None,
    *,
    quiet: bool = False,
) -> Run:
    """Go on with a run from its newest checkpoint, in the same folder; collective.

    Parameters
    ----------
    path : Path
        The run folder, wherever it is now.
    options : mapping of str to str
        Configuration fields that are to change, such as more `epochs`.
    communicator : Communicator
        At most as many ranks as the run has virtual ranks.
    requests : Requests, optional
        What is asked of the training from outside.
    changes : Path, optional
        A configuration file of fields that are to change.
    quiet : bool
        Whether nothing is printed, apart from warnings.

    Returns
    -------
    Run
        The same run.

    Raises
    ------
    SharedError
        On all ranks alike, when the run can't go on: the message names every difference.
    """

    def configure() -> tuple[RunFolder, Config]:
        folder = RunFolder.open(path)
        return folder, resolve(
            load_config(folder.config, options, changes), communicator.world_size
        )

    folder, config = together(communicator, configure)
    with together(communicator, lambda: open_dataset(config)) as original:
        session = Session(folder, config, requests or Requests(), quiet=quiet)
        with session.hold(communicator):
            _check_agreement(communicator, config, original)
            check_room(config, original.info, communicator, is_resumed=True)
            checkpoint = newest_checkpoint(folder, config, original, communicator)
            with _staged(communicator, config, original, quiet=quiet) as dataset:
                return session.train(communicator, dataset, checkpoint)


def _check_agreement(communicator: Communicator, config: Config, dataset: DatasetFile) -> None:
    """See that all ranks mean the same run; collective.

    Each has read its own configuration and opened its own file, perhaps on another host.

    Raises
    ------
    SharedError
        Naming what differs, and on which ranks.
    """
    own = {"version of Lockstep": lockstep.__version__, "data": dataset.info.content_sha256}
    for section, values in asdict(config).items():
        own |= {f"{section}.{name}": str(values[name]) for name in values if name != "data"}
    told = [json.loads(text) for text in communicator.gather_texts(json.dumps(own))]
    differing = [name for name in own if len({each.get(name) for each in told}) > 1]
    if differing:
        ranks = rank_names(communicator)
        differences = [
            f"{name}: "
            + ", ".join(f"{e.get(name)} on rank {r}" for r, e in zip(ranks, told, strict=True))
            for name in differing
        ]
        raise SharedError(
            "\n  ".join(["The ranks don't mean the same run:", *differences])
            + "\nGive all of them the same configuration, data and version of Lockstep."
        )


@contextmanager
def _staged(
    communicator: Communicator, config: Config, original: DatasetFile, *, quiet: bool
) -> Iterator[DatasetFile]:
    """Give the data set to read from: the copy of this rank's host, if one is wanted; collective.

    The first rank of each host makes it, while the others sleep. The watchdog hears of deaths, but
    doesn't ask for progress meanwhile: copying, and waiting for another job that copies, may take
    as long as they will. All ranks must see the original, which tells what the copy has to be.

    Raises
    ------
    SharedError
        On all ranks, naming the ranks and hosts on which it failed.
    """
    if not config.data.stage:
        yield original
        return
    hosts = communicator.gather_texts(socket.gethostname())
    first = hosts.index(hosts[communicator.rank])
    if communicator.rank == 0 and not quiet:
        num_hosts = len(set(hosts))
        click.echo(
            f"Staging {original.path} to {config.data.stage} on {num_hosts} "
            f"host{'s' * (num_hosts > 1)}"
        )

    def make() -> str:
        return str(stage(original, config.data.stage, _warn)) if communicator.rank == first else ""

    # The variables in the folder's name may differ from rank to rank.
    copy = Path(communicator.gather_texts(together(communicator, make))[first])

    def open_copy() -> DatasetFile:
        if not copy.exists():
            raise UserError(
                f"Rank {first} has staged the data to {copy} on {hosts[first]}, but they are not "
                "there. Are there several machines of that name, or has each rank a folder of its "
                "own under that name? Name another folder with --stage, or leave it out."
            )
        return DatasetFile.open(copy)

    with together(communicator, open_copy) as dataset:
        yield dataset


def _warn(message: str) -> None:
    click.echo(f"Warning: {message}", err=True)


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

    The data are read where they are, even if the run has staged them: every row is read once, so a
    copy would gain nothing.

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
        return config, model, open_split(config, model, split, is_own=not data)

    config, model, dataset = together(communicator, prepare)
    with dataset, blas_threads(config):
        # The run's own division gives the same bits; more ranks than that are welcome to help.
        virtual_ranks = max(config.training.virtual_ranks, communicator.world_size)
        evaluation = together(
            communicator,
            lambda: Evaluation(
                model.network,
                dataset,
                split,
                model.scaling,
                communicator,
                virtual_ranks,
                memory_budget(config, dataset),
            ),
        )
        return scores(evaluation.examine(model.parameters), model.class_names)


def open_split(config: Config, model: Model, split: str, *, is_own: bool) -> DatasetFile:
    """Open the configured data set to score a model on one of its splits.

    Parameters
    ----------
    config : Config
        Names the data set.
    model : Model
        What is to be scored.
    split : str
        "train", "validation" or "test".
    is_own : bool
        Whether it must be what the model was trained on.

    Raises
    ------
    UserError
        When it can't be opened or doesn't fit the model, or the split is empty.
    """
    dataset = _open(config)
    _check_fit(model, dataset, split)
    if is_own and dataset.info.content_sha256 != model.dataset_sha256:
        raise UserError(
            f"{dataset.path} has changed since the run was trained on it, so its splits may "
            "have too. To score the run on it all the same, name it with --data."
        )
    return dataset


def _check_fit(model: Model, dataset: DatasetFile, split: str) -> None:
    info = dataset.info
    if info.feature_shape != model.form.feature_shape or info.class_names != model.class_names:
        raise UserError(
            f"{dataset.path} doesn't fit the run: its samples are {info.feature_shape} with "
            f"{info.num_classes} classes, those of the run {model.form.feature_shape} with "
            f"{len(model.class_names)}, and the class names must be the same too."
        )
    if not info.num_samples[split]:
        raise UserError(f"{dataset.path} has no rows in its {split} split. Choose another --split.")


def resolve(config: Config, world_size: int) -> Config:
    """Fill in what depends on the number of ranks and on the environment, and check that it fits.

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
    _check_batch(config, virtual_ranks)
    num_rates, num_hidden = len(config.regularization.dropout), len(config.network.hidden_widths)
    if num_rates > 1 and num_rates != num_hidden:
        raise UserError(
            f"dropout has {num_rates} numbers, but hidden_widths has {num_hidden}. Give one for "
            "all hidden layers, or one for each."
        )
    optimization = config.optimization
    if optimization.warmup_epochs >= training.epochs:
        raise UserError(
            f"warmup_epochs = {optimization.warmup_epochs} is not less than epochs = "
            f"{training.epochs}, so the learning rate would never reach its peak."
        )
    learning_rate = rate_factor(config) * optimization.learning_rate
    if optimization.optimizer == "adamw" and learning_rate * optimization.weight_decay >= 1:
        scaling = optimization.learning_rate_scaling
        scaled = "" if scaling == "none" else f" (after {scaling} scaling)"
        raise UserError(
            f"learning_rate * weight_decay = {learning_rate}{scaled} * "
            f"{optimization.weight_decay} is not below 1, so a step would take the weights "
            "through zero. Lower one of them."
        )
    threads = training.threads_per_rank or fingerprint.threads_asked_for()
    return replace(
        config, training=replace(training, virtual_ranks=virtual_ranks, threads_per_rank=threads)
    )


def _check_batch(config: Config, virtual_ranks: int) -> None:
    """See that a step has enough samples for its parts and the virtual ranks.

    Raises
    ------
    UserError
        When it hasn't.
    """
    training = config.training
    if training.global_batch_size < virtual_ranks:
        raise UserError(
            f"global_batch_size = {training.global_batch_size} is less than virtual_ranks = "
            f"{virtual_ranks}, so some of them would never train. Raise the one or lower the other."
        )
    if training.global_batch_size % training.accumulation:
        raise UserError(
            f"global_batch_size = {training.global_batch_size} can't be divided into accumulation "
            f"= {training.accumulation} parts of equal size. Change one of them."
        )
    samples_per_part = training.global_batch_size // training.accumulation
    if samples_per_part < virtual_ranks:
        raise UserError(
            f"Each of the accumulation = {training.accumulation} parts of a step has "
            f"{samples_per_part} samples, less than virtual_ranks = {virtual_ranks}. Lower one of "
            "them."
        )
    if config.network.normalization == "batch" and samples_per_part < 2 * virtual_ranks:
        raise UserError(
            f"normalization = batch needs two samples of each virtual rank, for one alone becomes "
            f"zero, and there are {samples_per_part} of virtual_ranks = {virtual_ranks} at a time. "
            "Raise global_batch_size, lower virtual_ranks or accumulation, or take normalization = "
            "layer."
        )


def open_dataset(config: Config) -> DatasetFile:
    """Open the configured data set, to train on it.

    Raises
    ------
    UserError
        When none is configured, it can't be opened, there is nothing to train on, it can't be
        augmented as configured, or there is too little memory for it.
    """
    dataset = _open(config)
    if not dataset.info.num_samples["train"]:
        raise UserError(f"{dataset.path} has no training rows.")
    if config.training.patience and not dataset.info.num_samples["validation"]:
        raise UserError(
            f"patience = {config.training.patience} needs a validation score, but {dataset.path} "
            "has no validation rows. Convert the data with --validation, or set patience to 0."
        )
    strengths_of(config).check(dataset.info)
    memory_budget(config, dataset).check(sharding_of(config, dataset.info).global_batch_size)
    return dataset


def _open(config: Config) -> DatasetFile:
    if not config.data.data:
        raise UserError(
            'No data set is named. Give one with --data FILE.h5, or as data = "FILE.h5" under '
            "[data]. `lockstep convert digits data/digits.h5` makes a small one."
        )
    return DatasetFile.open(Path(config.data.data))


def _claim_folder(
    communicator: Communicator, results: Path, name: str, dataset_name: str
) -> RunFolder:
    """Make the run folder on the root rank and tell the others its name; collective."""

    def claim() -> str:
        return RunFolder.claim(results, name, dataset_name).path.name

    own = on_root(communicator, claim)
    return RunFolder(results / communicator.gather_texts(own or "")[0])
