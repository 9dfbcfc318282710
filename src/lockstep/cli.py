"""The commands. This is the only file that knows every room.

Rooms are imported inside the commands that need them, because some of what they bring takes
longer to import than a small training takes to run.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import lockstep
from lockstep.bench.commands import bench
from lockstep.cluster.commands import status, submit
from lockstep.cluster.start import StartOptions, check_start, start_options, train_on_ranks
from lockstep.errors import FAILURE, RESUMABLE, SharedError, UserError
from lockstep.options import ConfiguredCommand, configuration_options, configure, option_words
from lockstep.parallel.connect import connect
from lockstep.parallel.launch import Launch, rank_counts_of, refuse_ranks, start_ranks
from lockstep.parallel.verdict import on_living_root, together
from lockstep.search.commands import sweep
from lockstep.storage.run_folder import RunFolder

if TYPE_CHECKING:
    from lockstep.data.dataset_file import DatasetFile, DatasetInfo
    from lockstep.train.requests import Requests
    from lockstep.train.session import Run

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_FILE = click.Path(path_type=Path)


@click.group(context_settings=_CONTEXT)
@click.version_option(lockstep.__version__, prog_name="lockstep")
def cli() -> None:
    """Train multilayer perceptrons by synchronous data-parallel SGD.

    A run gives the same weights, bit for bit, on any number of MPI ranks.

    \b
    A first run:
      lockstep convert digits data/digits.h5
      lockstep train --data data/digits.h5 -n 2

    \b
    Shell completion, for bash (zsh and fish alike):
      eval "$(_LOCKSTEP_COMPLETE=bash_source lockstep)"
    """


# ---------------------------------------------------------------------------------- data sets


@cli.command()
@click.argument("source")
@click.argument("out", type=_FILE, metavar="OUT.h5")
@click.option("--seed", default=0, show_default=True, help="Of the split and the row order.")
@click.option(
    "--validation", type=float, help="Validation split: a fraction below 1, or a number of rows."
)
@click.option("--test", type=float, help="Test split: a fraction below 1, or a number of rows.")
@click.option(
    "--standardize", is_flag=True, help="Scale every feature to mean 0 and deviation 1 on train."
)
@click.option("--scale", type=float, help="Factor for all features, instead of the source's own.")
@click.option("--chunk-rows", type=int, help="Rows of an HDF5 chunk; about a megabyte by default.")
@click.option("--label-column", help="Tables: name or position of the labels; the last by default.")
@click.option("--header/--no-header", default=None, help="Tables: is the first line a header?")
@click.option("--delimiter", help="Tables: the separator, where guessing fails.")
@click.option("--image-size", type=(int, int), help="Image folders: height and width in pixels.")
@click.option("--color", type=click.Choice(["gray", "rgb"]), help="Image folders: colour mode.")
@click.option(
    "--mirror",
    "mirrors",
    multiple=True,
    help="mnist: where to download from, instead of the usual.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT.h5 if it exists.")
def convert(source: str, out: Path, **options: Any) -> None:  # noqa: ANN401 - click's own
    """Convert SOURCE to the data set file OUT.h5.

    \b
    SOURCE is one of
      digits             scikit-learn's 8x8 digits, which need no download
      mnist              the MNIST database, downloaded and checked
      FOLDER             with the four IDX files of MNIST or its kind, gzip or not
      FOLDER             of images, one sub-folder per class
      FILE.pkl.gz        the pickled MNIST of the well-known tutorials
      FILE.npz           arrays x and y, or x_train, y_train, x_test, y_test
      FILE.csv[.gz]      a table with a label column

    Splits are stratified: each holds the same share of every class. What comes with test files of
    its own keeps them, and gives its last training rows for validation, as MNIST does.
    """
    refuse_ranks()
    from lockstep.data.convert import ConvertOptions
    from lockstep.data.convert import convert as convert_source

    convert_source(source, out, ConvertOptions(**options))
    click.echo(f"Wrote {out}:")
    click.echo(_description(out))


@cli.command()
@click.argument("file", type=_FILE, metavar="FILE.h5")
@click.option("--verify", is_flag=True, help="Recompute the digest of the content.")
@click.option("--preview", type=_FILE, help="Draw a sheet of labelled samples as PNG.")
@click.option(
    "--augment",
    type=_FILE,
    metavar="CONFIG.toml",
    help="Draw samples beside what the file's [augmentation] makes of them.",
)
def inspect(file: Path, *, verify: bool, preview: Path | None, augment: Path | None) -> None:
    """Show what a data set file holds.

    \b
      lockstep inspect data/mnist.h5 --preview sheet.png --augment launch/presets/record.toml
    """
    refuse_ranks()
    from lockstep.data.dataset_file import DatasetFile

    if augment and not preview:
        raise UserError("--augment draws augmented samples: name the sheet with --preview OUT.png.")
    click.echo(_description(file))
    with DatasetFile.open(file) as dataset:
        if verify:
            dataset.verify()
            click.echo("Content digest: verified.")
        if preview and augment:
            _preview_augmentation(dataset, augment, preview)
        elif preview:
            from lockstep.report.images import sample_sheet

            x, y = dataset.read("train", 0, min(64, dataset.info.num_samples["train"]))
            images = x.reshape(-1, *dataset.info.feature_shape)
            num_drawn = sample_sheet(images, y, dataset.info.class_names, preview)
            click.echo(f"Drew {num_drawn} samples: {preview}")


def _preview_augmentation(dataset: "DatasetFile", config_file: Path, out: Path) -> None:
    """Draw samples beside augmented versions of them."""
    from dataclasses import asdict

    from lockstep.config import load_config
    from lockstep.data.augmentation import Strengths
    from lockstep.data.preview import augmented_samples
    from lockstep.report.images import augmentation_sheet

    config = load_config(config_file, {})
    strengths = Strengths(**asdict(config.augmentation))
    if not strengths.are_used:
        raise UserError(f"{config_file} switches no augmentation on: see its [augmentation].")
    x, y = augmented_samples(dataset, strengths, config.training.seed, 8, 7)
    augmentation_sheet(x, y, dataset.info.class_names, out)
    click.echo(f"Drew {len(x)} samples, each with {x.shape[1] - 1} augmented versions: {out}")


# ---------------------------------------------------------------------------------- training


@cli.command(cls=ConfiguredCommand, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[CONFIG.toml]")
@start_options
@click.option(
    "--results", type=_FILE, default="results", show_default=True, help="Where run folders live."
)
@click.option("--run-name", default="", help="Name of the run folder; data set and time if unset.")
@click.option(
    "--resume", type=_FILE, metavar="RUN", help="Go on with the run in this folder; no CONFIG.toml."
)
@click.option("--go-on", is_flag=True, help="If the run of --run-name exists, go on with it.")
@configuration_options
def train(
    arguments: tuple[str, ...],
    start: StartOptions,
    results: Path,
    run_name: str,
    resume: Path | None,
    *,
    go_on: bool,
    **fields: str | None,
) -> int:
    """Train a network and fill a run folder.

    Works alone and under any MPI launcher; with -n it starts the ranks itself. Every field of
    CONFIG.toml is also an option; the command line wins over the file, and the file over the
    defaults.

    \b
      lockstep train --data data/digits.h5
      lockstep train launch/presets/mnist.toml --data data/mnist.h5 -n 4
      mpiexec -n 4 lockstep train --data data/digits.h5 --epochs 5
      lockstep train --data data/digits.h5 -n 4 --restarts 3
      lockstep train --resume results/digits-20260101-120000 -n 2

    A resumed run ends with the same bits as one that was never stopped, on any number of ranks up
    to its virtual ranks. SIGTERM, SIGUSR1 and Ctrl-C save a checkpoint and stop, with exit code
    75 (a second Ctrl-C ends at once); SIGUSR2 saves one and goes on.
    """
    communicator = connect()
    if resume and run_name:
        raise SharedError(f"--resume goes on in {resume}, so drop --run-name {run_name}.")
    if go_on and not run_name:
        raise SharedError("--go-on needs --run-name, for otherwise every run has a new folder.")
    start.check(communicator)
    if go_on and RunFolder(results / run_name).config.is_file():
        resume = results / run_name
    config, source = together(
        communicator, lambda: configure(arguments, fields, resume, is_file_welcome=go_on)
    )
    launch = together(communicator, lambda: start.launch)
    if start.needs_supervisor:
        dataset_name = check_start(config, launch)
        # A new folder is made here, so that it is known what to resume.
        folder = RunFolder(resume) if resume else RunFolder.claim(results, run_name, dataset_name)
        where = [f"--results={results}", f"--run-name={folder.path.name}"]
        where += ["--go-on"] if go_on else []
        where = [f"--resume={resume}"] if resume and not go_on else where
        words = ["train", *arguments, *where, *option_words(fields)]
        return train_on_ranks(start, folder, words, is_new=not resume)
    from lockstep.cluster.job import job_end_s
    from lockstep.train.deadline import Deadline
    from lockstep.train.requests import Requests, listen
    from lockstep.train.run import resume_training, run_training

    requests = Requests()
    if communicator.rank == 0:
        requests.deadline = Deadline(job_end_s())
    with listen(requests):
        if resume:
            run = resume_training(resume, source.options, communicator, requests, source.file)
        else:
            run = run_training(config, communicator, results, run_name, requests)
        finish = _finish if run.is_done else partial(_tell_of_stop, requests)
        # The others wait, for a rank that has left MPI can't be ended any more if the root fails.
        on_living_root(run.communicator, lambda: finish(run))
    return 0 if run.is_done else RESUMABLE


@cli.command(cls=ConfiguredCommand, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[CONFIG.toml]")
@click.option(
    "--ranks", help="Numbers of ranks to train on.  [default: 1,2,3,4, or those there are]"
)
@click.option(
    "--steps", type=click.IntRange(2), default=20, show_default=True, help="Of each training."
)
@click.option(
    "--results", type=_FILE, default="results", show_default=True, help="Where the runs go."
)
@configuration_options
def verify(
    arguments: tuple[str, ...],
    ranks: str | None,
    steps: int,
    results: Path,
    **fields: str | None,
) -> int:
    """Check that the same bits come out on several numbers of ranks.

    Trains a few steps in one go, and again on each number of ranks with a stop and a resume on the
    next one in between, and compares parameters and optimizer state. Starts the ranks itself, or
    takes those that a launcher has started: on a cluster, start it as a training is started there.

    \b
      lockstep verify launch/presets/digits.toml
      mpiexec -n 16 lockstep verify my.toml --ranks 1,4,16
    """
    communicator = connect()
    config, _ = together(communicator, lambda: configure(arguments, fields, None))
    rank_counts = together(communicator, lambda: rank_counts_of(ranks, communicator.world_size))
    if max(rank_counts) > communicator.world_size == 1:
        where = [f"--ranks={','.join(map(str, rank_counts))}", f"--steps={steps}"]
        where.append(f"--results={results}")
        start_ranks(Launch(max(rank_counts)), ["verify", *arguments, *where, *option_words(fields)])
    from lockstep.train.verify import verify as run_trials

    trials = run_trials(config, communicator, rank_counts, steps, results)
    if communicator.rank != 0:
        return 0
    others = [trial for trial in trials if trial.digest != trials[0].digest]
    if not others:
        click.echo(f"The same bits in all {len(trials)} trainings of {steps} steps.")
        return 0
    click.echo("The bits are NOT the same.")
    if config.training.reduction == "mpi":
        click.echo('reduction = "mpi" does not promise them; "ordered" does.')
    elif config.training.trace:
        click.echo(f"See where: lockstep compare {trials[0].folder} {others[0].folder}")
    else:
        click.echo("To see where, do this again with --trace true.")
    return FAILURE


@cli.command()
@click.option("--data", type=_FILE, help="Data set file whose reading is to be timed.")
@click.option(
    "-n", "--num-ranks", type=click.IntRange(2), help="Ranks to try MPI with.  [default: 2]"
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all figures.")
@click.option("--only-ranks", is_flag=True, hidden=True, help="What ranks find together.")
def doctor(data: Path | None, num_ranks: int | None, *, as_json: bool, only_ranks: bool) -> int:
    """Look at this machine for up to 20 seconds: what works, what is slow, what mends it.

    MPI and its launcher, the cores of the ranks, the BLAS library and its kernels, memory, and
    the speed of reading. Starts some ranks itself; under an MPI launcher it looks at those that
    are there. Ends with exit code 1 if something is broken.

    \b
      lockstep doctor --data data/mnist.h5 -n 4
      srun lockstep doctor
    """
    import json

    from lockstep.doctor import ranks
    from lockstep.doctor.examination import examine
    from lockstep.doctor.findings import Finding, are_usable, content, summary

    communicator = connect()
    if num_ranks and communicator.world_size > 1:
        raise SharedError("The ranks are there already, so drop -n.")
    if only_ranks:
        found = ranks.examine(communicator)
    else:
        found = examine(communicator, num_ranks or 2, data, Path("results"))
    findings: list[Finding] = []
    for finding in found:
        if communicator.rank == 0 and not as_json:
            # As it is found, for all of it takes a while.
            if not findings or finding.topic != findings[-1].topic:
                click.echo(f"\n{finding.topic}" if findings else finding.topic)
            click.echo(finding)
        findings.append(finding)
    if communicator.rank == 0:
        as_text = f"\n{summary(findings)}"
        layout = None if only_ranks else 2
        click.echo(json.dumps(content(findings), indent=layout) if as_json else as_text)
    return 0 if are_usable(findings) else FAILURE


def _tell_of_stop(requests: "Requests", run: "Run") -> None:
    is_late = requests.deadline is not None and requests.deadline.has_come
    if is_late:
        from lockstep.cluster.history import History

        History(run.folder).time_is_up(run.num_steps)
    click.echo(
        f"Stopped after step {run.num_steps}, {'for time is short' if is_late else 'as asked'}. "
        f"Go on with: lockstep train --resume {run.folder.path}"
    )


def _finish(run: "Run") -> None:
    """Draw plots and page, and tell the scores."""
    from lockstep.report.report import report as draw_report
    from lockstep.report.tables import scores_table
    from lockstep.storage.run_folder import read_json

    folder = run.folder
    draw_report(folder)
    summary = read_json(folder.summary)
    if summary["stopped_early"]:
        click.echo(
            f"Stopped early: no better validation score since epoch {summary['best_epoch']}."
        )
    if summary["test_total"]:
        click.echo(f"\n{scores_table(summary)}\n")
        click.echo(
            f"Test accuracy: {summary['test_accuracy']:.2%} "
            f"({summary['test_correct']} / {summary['test_total']}), "
            f"weights of epoch {summary['tested_epoch']}"
        )
    click.echo(f"weights_sha256: {summary['weights_sha256']}")
    click.echo(f"Run folder: {folder.path} (open {folder.report.name} in a browser)")


# ---------------------------------------------------------------------------------- finished runs


@cli.command()
@click.argument("runs", nargs=-1, required=True, type=_FILE, metavar="RUN...")
@click.option("--data", type=_FILE, help="Another data set file; the run's own by default.")
@click.option(
    "--split", type=click.Choice(["train", "validation", "test"]), default="test", show_default=True
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def evaluate(runs: tuple[Path, ...], data: Path | None, split: str, *, as_json: bool) -> None:
    """Score a run's weights on a split, or those of several runs together.

    Accuracy, and precision, recall and F1 per class; with --json the confusion matrix too.
    Works alone or under an MPI launcher.

    Several runs are an ensemble: the mean of their probabilities is scored, and each run's own
    score is told too.

    \b
      lockstep evaluate results/digits-20260101-120000
      mpiexec -n 4 lockstep evaluate results/seed-* --split validation
    """
    import json

    from lockstep.report.tables import scores_table
    from lockstep.train.ensemble import evaluate_ensemble
    from lockstep.train.run import evaluate_run

    communicator = connect()
    if len(runs) == 1:
        folder = together(communicator, lambda: RunFolder.open(runs[0]))
        scores = evaluate_run(folder, data, split, communicator)
    else:
        scores = evaluate_ensemble(runs, data, split, communicator)
    if communicator.rank != 0:
        return
    if as_json:
        click.echo(json.dumps({"split": split, **scores}, indent=2))
        return
    click.echo(scores_table(scores, "--json prints all"))
    click.echo()
    members = scores.get("members", [])
    width = max((len(member["run"]) for member in members), default=0)
    for member in members:
        click.echo(f"{member['run']:{width}}  {_score_text(member)}")
    mean = f" of the mean of {len(runs)} runs" if len(runs) > 1 else ""
    click.echo(f"{split.capitalize()} accuracy{mean}: {_score_text(scores)}")


def _score_text(scores: Mapping[str, Any]) -> str:
    correct, total = scores["correct"], scores["total"]
    errors = f"{total - correct} error{'s' * (total - correct != 1)}"
    return f"{scores['accuracy']:.2%} ({correct} / {total}), {errors}, loss {scores['loss']:.4f}"


@cli.command()
@click.argument("paths", nargs=-1, required=True, type=_FILE, metavar="RUN... FILE...")
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    default="test",
    show_default=True,
    help="Of an HDF5 file.",
)
@click.option("--json", "layout", flag_value="json", help="Print JSON with all probabilities.")
@click.option("--csv", "layout", flag_value="csv", help="Print CSV with all probabilities.")
def predict(paths: tuple[Path, ...], split: str, layout: str | None) -> None:
    """Classify images or rows by a run's weights, or by those of several runs together.

    RUNs are run folders; of several, the mean of their probabilities counts. FILEs are PNG, JPEG
    or other images, .npy arrays of one or more samples, .csv tables of features without a label,
    or data set files (.h5), of which one split is taken. Numbers are those that were converted,
    such as 0 to 255 for MNIST's pixels.

    Images of hand-drawn digits are brought to the form of the training data: inverted if need
    be, cropped, scaled, and centred by mass as MNIST's were.

    \b
      lockstep predict results/digits-20260101-120000 drawn.png
      lockstep predict results/seed-* drawn.png --json
    """
    refuse_ranks()
    from lockstep.data.samples import read_samples
    from lockstep.report.predictions import FORMATS
    from lockstep.train.ensemble import mean_probabilities, open_members

    runs, files = _runs_and_files(paths)
    members = open_members(runs)
    model = members[0].model
    samples = [read_samples(file, model.form, split) for file in files]
    outputs = [mean_probabilities(members, part.stored) for part in samples]
    names = [name for part in samples for name in part.names]
    rows = [row for part in outputs for row in part.tolist()]
    click.echo(FORMATS[layout or "table"](names, model.class_names, rows))


def _runs_and_files(paths: Sequence[Path]) -> tuple[Sequence[Path], Sequence[Path]]:
    """Tell run folders from what is to be classified: the first is one, and so are more folders."""
    num_runs = 1 + len([*takewhile(Path.is_dir, paths[1:])])
    runs, files = paths[:num_runs], paths[num_runs:]
    if not files:
        raise UserError(
            f"Nothing is to be classified: name files after {runs[-1]}, which are images, .npy "
            "arrays, .csv tables or .h5 files."
        )
    if not files[0].exists():
        raise UserError(
            f"{files[0]} doesn't exist: name one or more runs, and then images, .npy arrays, .csv "
            "tables or .h5 files."
        )
    return runs, files


@cli.command()
@click.argument("run_a", type=_FILE)
@click.argument("run_b", type=_FILE)
def compare(run_a: Path, run_b: Path) -> int:
    """Tell whether two runs have the same bits, and where they first differ.

    Names the first epoch, and with `--trace true` in both trainings the first step, whether it is
    the data's order, the gradient or the parameters, and what differs in their environments. Ends
    with exit code 0 for the same bits and 1 for a difference.
    """
    refuse_ranks()
    from lockstep.report.compare import compare as compare_runs
    from lockstep.report.compare import comparison_text

    comparison = compare_runs(RunFolder.open(run_a), RunFolder.open(run_b))
    click.echo(comparison_text(comparison))
    return 0 if comparison.is_same else FAILURE


@cli.command()
@click.argument("run", type=_FILE)
def report(run: Path) -> None:
    """Draw a run's plots and page again."""
    refuse_ranks()
    from lockstep.report.report import report as draw_report
    from lockstep.report.report import unreadable_files

    folder = RunFolder.open(run)
    for message in unreadable_files(folder):
        click.echo(f"Warning: {message}", err=True)
    for path in draw_report(folder):
        click.echo(path)


def _description(path: Path) -> str:
    """Describe a data set file in a few lines."""
    from lockstep.data.dataset_file import SPLITS, DatasetFile

    with DatasetFile.open(path) as dataset:
        info = dataset.info
        counts = {split: dataset.class_counts(split) for split in SPLITS}
    shape = " x ".join(map(str, info.feature_shape))
    width = max(len(name) for name in (*info.class_names, "all classes"))
    lines = [
        f"Name            {info.name}",
        f"Samples         {shape}, {info.dtype}, {info.num_features} features",
        f"Scaling         {_scaling_text(info)}",
        f"Source          {info.source}, training rows shuffled with seed {info.shuffle_seed}",
    ]
    for name, digest in zip(info.source_files, info.source_sha256, strict=True):
        lines.append(f"  {name}: sha256 {digest}")
    lines += [f"Content sha256  {info.content_sha256}", ""]
    lines.append(f"{'Class':{width}}" + "".join(f"{split:>12}" for split in SPLITS))
    rows = [*zip(info.class_names, *counts.values(), strict=True)]
    rows.append(("all classes", *(count.sum() for count in counts.values())))
    lines += [f"{name:{width}}" + "".join(f"{n:12,}" for n in numbers) for name, *numbers in rows]
    return "\n".join(lines)


def _scaling_text(info: "DatasetInfo") -> str:
    import numpy as np

    if np.ndim(info.scale):
        return "standardized: mean 0 and deviation 1 of each feature on train"
    hint = "; --standardize may help" if info.image_form == "none" and info.scale == 1 else ""
    return f"input = stored * {info.scale:.6g} + {info.offset:.6g}{hint}"


for command in (bench, submit, status, sweep):
    cli.add_command(command)
