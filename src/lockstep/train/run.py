"""A whole run: from a configuration to a finished run folder."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import click
import numpy as np
from threadpoolctl import threadpool_limits

import lockstep
from lockstep.config import Config, load_config
from lockstep.data.dataset_file import DatasetFile
from lockstep.errors import SharedError, UserError
from lockstep.parallel.binding import gather_bindings, own_cores
from lockstep.parallel.communicator import Communicator
from lockstep.parallel.crowding import Crowding, find_crowding
from lockstep.parallel.launch import terminal_width
from lockstep.parallel.verdict import on_root, together
from lockstep.storage.checkpoint import Checkpoint, CheckpointStore
from lockstep.storage.run_folder import RunFolder, RunFolderTakenError, read_json
from lockstep.train import fingerprint
from lockstep.train.evaluation import Evaluation
from lockstep.train.model import Model, checkpoint_snapshot, load_model
from lockstep.train.observers import Console, Observer, Observers
from lockstep.train.record import RunRecord
from lockstep.train.requests import Requests
from lockstep.train.resume import newest_checkpoint
from lockstep.train.scores import scores
from lockstep.train.trainer import Trainer, memory_budget, network_of


@dataclass(frozen=True)
class Run:
    """A run as a training has left it.

    Parameters
    ----------
    folder : RunFolder
        Its folder.
    is_done : bool
        Whether it is finished; otherwise it was asked to stop and can be resumed.
    num_steps : int
        Steps done.
    """

    folder: RunFolder
    is_done: bool
    num_steps: int


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
    with together(communicator, lambda: open_dataset(resolved)) as dataset:
        _check_agreement(communicator, resolved, dataset)
        folder = _claim_folder(communicator, results, name, dataset.info.name)
        with _locked(folder, communicator):
            return _train(folder, resolved, dataset, communicator, None, requests, quiet=quiet)


def resume_training(
    path: Path,
    options: Mapping[str, str],
    communicator: Communicator,
    requests: Requests | None = None,
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
        return folder, resolve(load_config(folder.config, options), communicator.world_size)

    folder, config = together(communicator, configure)
    with (
        together(communicator, lambda: open_dataset(config)) as dataset,
        _locked(folder, communicator),
    ):
        _check_agreement(communicator, config, dataset)
        checkpoint = newest_checkpoint(folder, config, dataset, communicator)
        return _train(folder, config, dataset, communicator, checkpoint, requests, quiet=quiet)


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
    differences = [
        f"{name}: " + ", ".join(f"{each.get(name)} on rank {r}" for r, each in enumerate(told))
        for name in own
        if len({each.get(name) for each in told}) > 1
    ]
    if differences:
        raise SharedError(
            "\n  ".join(["The ranks don't mean the same run:", *differences])
            + "\nGive all of them the same configuration, data and version of Lockstep."
        )


@contextmanager
def _locked(folder: RunFolder, communicator: Communicator) -> Iterator[None]:
    """Keep others out of the run folder; collective."""
    with ExitStack() as stack:
        on_root(communicator, lambda: stack.enter_context(folder.lock()))
        yield


def _train(
    folder: RunFolder,
    config: Config,
    dataset: DatasetFile,
    communicator: Communicator,
    checkpoint: Checkpoint | None,
    requests: Requests | None,
    *,
    quiet: bool,
) -> Run:
    """Train in a run folder, from the beginning or from a checkpoint; collective."""
    with _blas_threads(config):
        hosts = fingerprint.hosts(communicator)
        kernels = fingerprint.kernels(communicator)
        bindings = gather_bindings(communicator)
        observer = Observer()
        if communicator.rank == 0:
            environment = _environment(communicator) | {"hosts": hosts, "kernels": kernels}
            environment["binding"] = {f"rank {r}": str(own) for r, own in enumerate(bindings)}
            record = RunRecord(folder, config, dataset, environment, checkpoint)
            observer = Observers([record] if quiet else [Console(terminal_width()), record])
            if not quiet:
                _announce(config, dataset, communicator.world_size, folder, checkpoint)
                threads = config.training.threads_per_rank
                _warn_of_crowding(find_crowding(bindings, threads, communicator.library))
            _warn_of_kernels({*kernels, *read_json(folder.run).get("kernels", ())})
        trainer = together(
            communicator, lambda: Trainer(config, dataset, communicator, observer, requests)
        )
        if checkpoint is not None:
            trainer.restore(checkpoint_snapshot(checkpoint, trainer.network))
        # A diverging training is told of in one message, not by NumPy's warnings.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            is_done = trainer.train()
    return Run(folder, is_done, trainer.progress.step)


def _announce(
    config: Config,
    dataset: DatasetFile,
    world_size: int,
    folder: RunFolder,
    checkpoint: Checkpoint | None,
) -> None:
    network = network_of(config, dataset.info)
    num_rows = dataset.info.num_samples["train"]
    click.echo(
        f"Training {network} ({network.num_parameters:,} parameters) on {num_rows:,} rows of "
        f"{dataset.path}: ranks {world_size}, virtual ranks "
        f"{config.training.virtual_ranks}, in {folder.path}"
    )
    if checkpoint is not None:
        facts = checkpoint.facts
        click.echo(f"Going on after step {facts['step']} ({facts['epoch']} epochs done)")
        _tell_of_longer_schedule(config, facts["config"])


def _blas_threads(config: Config) -> threadpool_limits:
    """Set the rank's BLAS threads for a while: at most one for each core that it may run on."""
    threads = min(config.training.threads_per_rank, len(own_cores()))
    return threadpool_limits(threads, user_api="blas")


def _warn_of_crowding(crowding: Crowding | None) -> None:
    if crowding is not None:
        what = "Warning" if crowding.is_mendable else "Note"
        click.echo(f"{what}: {crowding.text} {crowding.remedy}", err=True)


def _warn_of_kernels(kernels: set[str]) -> None:
    if len(kernels) > 1:
        click.echo(
            f"Warning: the run's ranks compute with different BLAS kernels or threads "
            f"({'; '.join(sorted(kernels))}), so another placement of the ranks, or a run that "
            "was never stopped, may give other bits.",
            err=True,
        )


def _tell_of_longer_schedule(config: Config, before: dict[str, Any]) -> None:
    epochs, schedule = config.training.epochs, config.optimization.schedule
    if epochs > before["training"]["epochs"] and schedule in {"cosine", "one_cycle"}:
        click.echo(
            f"From here on, the learning rate takes its course over {epochs} epochs instead of "
            f"{before['training']['epochs']}."
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
        if not data and dataset.info.content_sha256 != model.dataset_sha256:
            raise UserError(
                f"{dataset.path} has changed since the run was trained on it, so its splits may "
                "have too. To score the run on it all the same, name it with --data."
            )
        return config, model, dataset

    config, model, dataset = together(communicator, prepare)
    with dataset, _blas_threads(config):
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
    if training.global_batch_size < virtual_ranks:
        raise UserError(
            f"global_batch_size = {training.global_batch_size} is less than virtual_ranks = "
            f"{virtual_ranks}, so some of them would never train. Raise the one or lower the other."
        )
    optimization = config.optimization
    if optimization.warmup_epochs >= training.epochs:
        raise UserError(
            f"warmup_epochs = {optimization.warmup_epochs} is not less than epochs = "
            f"{training.epochs}, so the learning rate would never reach its peak."
        )
    decay = optimization.learning_rate * optimization.weight_decay
    if optimization.optimizer == "adamw" and decay >= 1:
        raise UserError(
            f"learning_rate * weight_decay = {optimization.learning_rate} * "
            f"{optimization.weight_decay} is not below 1, so a step would take the weights "
            "through zero. Lower one of them."
        )
    threads = training.threads_per_rank or fingerprint.threads_asked_for()
    return replace(
        config, training=replace(training, virtual_ranks=virtual_ranks, threads_per_rank=threads)
    )


def open_dataset(config: Config) -> DatasetFile:
    """Open the configured data set.

    Raises
    ------
    UserError
        When none is configured, it can't be opened, there is nothing to train on, or too little
        memory for it.
    """
    if not config.data.data:
        raise UserError(
            'No data set is named. Give one with --data FILE.h5, or as data = "FILE.h5" under '
            "[data]. `lockstep convert digits data/digits.h5` makes a small one."
        )
    dataset = DatasetFile.open(Path(config.data.data))
    if not dataset.info.num_samples["train"]:
        raise UserError(f"{dataset.path} has no training rows.")
    if config.training.patience and not dataset.info.num_samples["validation"]:
        raise UserError(
            f"patience = {config.training.patience} needs a validation score, but {dataset.path} "
            "has no validation rows. Convert the data with --validation, or set patience to 0."
        )
    memory_budget(config, dataset).check(config.training.global_batch_size)
    return dataset


def _claim_folder(
    communicator: Communicator, results: Path, name: str, dataset_name: str
) -> RunFolder:
    """Make the run folder on the root rank and tell the others its name; collective."""

    def claim() -> str:
        if Path(name).name != name or name == "..":
            raise UserError(f"--run-name {name}: a plain name, please; --results names the folder.")
        if name:
            return RunFolder.create(results / name).path.name
        made_up = f"{dataset_name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
        # Jobs that start in the same second are no rarity on a cluster.
        for attempt in count(1):
            candidate = results / (made_up if attempt == 1 else f"{made_up}-{attempt}")
            if not candidate.exists():
                with suppress(RunFolderTakenError):
                    return RunFolder.create(candidate).path.name
        raise AssertionError("counting never ends")

    own = on_root(communicator, claim)
    return RunFolder(results / communicator.gather_texts(own or "")[0])


def _environment(communicator: Communicator) -> dict[str, Any]:
    return {
        "world_size": communicator.world_size,
        "versions": fingerprint.versions(communicator),
        "blas": fingerprint.blas(),
        "machine": fingerprint.machine(),
    }
