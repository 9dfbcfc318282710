"""The command `lockstep sweep`.

What it needs is imported inside: see `lockstep.cli`.
"""

from pathlib import Path

import click

from lockstep.errors import RESUMABLE, SharedError
from lockstep.parallel.connect import connect
from lockstep.parallel.launch import Launch
from lockstep.parallel.supervisor import supervise
from lockstep.parallel.verdict import on_root, together

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("file", type=_FILE, metavar="SPEC.toml")
@click.option("-n", "--num-ranks", type=click.IntRange(1), help="Start so many MPI ranks.")
@click.option(
    "--results", type=_FILE, help="The search's own folder.  [default: results/<name of SPEC.toml>]"
)
def sweep(file: Path, num_ranks: int | None, results: Path | None) -> int:
    """Search for hyper-parameters by many trainings.

    SPEC.toml says which fields vary and how; launch/presets/sweep.toml is an example. Trials are
    judged by the validation split, and never look at the test split. The same command goes on with
    a search that was stopped or killed.

    \b
      lockstep sweep launch/presets/sweep.toml
      lockstep sweep launch/presets/sweep.toml -n 2

    Trials are ordinary runs in the search's folder. The number of ranks makes no difference to
    them.
    """
    communicator = connect()
    folder = results or Path("results") / file.stem
    if num_ranks and communicator.world_size > 1:
        raise SharedError("The ranks are there already, so drop -n.")
    if num_ranks and num_ranks > 1:
        return _on_ranks(num_ranks, file, folder)
    from lockstep.search.spec import Spec
    from lockstep.search.sweep import plan, run_sweep

    spec = together(communicator, lambda: Spec.load(file))
    standings = run_sweep(spec, communicator, folder)

    def tell() -> None:
        from lockstep.search.report import report

        trials = plan(spec, folder)
        click.echo(f"\n{report(spec, trials, standings, folder)}\n")
        if standings[0].has_diverged:
            click.echo("All trials have diverged, so none is the best. Search somewhere else.")
            return
        best = trials[standings[0].trial]
        click.echo(f"Best: trial {best.number}. Its weights have not seen the test split yet.")
        click.echo(f"Test it: lockstep evaluate {best.folder.path}")
        click.echo(f"Train it again: lockstep train {best.folder.config}")

    on_root(communicator, tell)
    return 0


def _on_ranks(num_ranks: int, file: Path, folder: Path) -> int:
    """Start ranks that search, and tell of one that dies; return the exit code."""
    table, remedy = folder / "trials.csv", "Go on with: the same command"
    before_ns = table.stat().st_mtime_ns if table.exists() else None

    def is_done() -> bool:
        return table.exists() and table.stat().st_mtime_ns != before_ns

    words = ["sweep", str(file), f"--results={folder}"]
    exit_code = supervise(Launch(num_ranks), lambda: words, is_done, 0, remedy)
    if exit_code == RESUMABLE:
        click.echo(f"Stopped. {remedy}")
    return exit_code
