"""A whole search: all trials, rung by rung, on groups of ranks side by side."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from lockstep.config import Config, load_config, read_toml
from lockstep.errors import SharedError, SharedFailureError, UserError
from lockstep.parallel.communicator import Communicator
from lockstep.parallel.verdict import on_root, together
from lockstep.search.spec import Spec
from lockstep.search.standings import Standing, survivors
from lockstep.search.trial import Trial
from lockstep.storage.run_folder import RunFolder, make_folder, read_json, write_json
from lockstep.train.blueprint import sharding_of
from lockstep.train.room import check_room_side_by_side
from lockstep.train.run import open_dataset, resolve
from lockstep.train.steps import Steps


def run_sweep(spec: Spec, communicator: Communicator, results: Path) -> list[Standing]:
    """Train all trials, as far as they are not; collective.

    The ranks form groups of `ranks_per_trial`, which train side by side. The trials of a rung are
    dealt to the groups in turn, in the order of their numbers. Which group trains a trial makes no
    difference to it.

    Parameters
    ----------
    spec : Spec
        What to search.
    communicator : Communicator
        All ranks; those that are left over sleep.
    results : Path
        The search's own folder, new or of the same search.

    Returns
    -------
    list of Standing
        Of all trials, each at its last rung, the best first.

    Raises
    ------
    SharedError
        On all ranks alike, when the search can't be made.
    """
    if communicator.can_lose_ranks:
        raise SharedError(
            "A search can't go on without a rank that dies, so start it without --with-ft. If one "
            "dies, go on with the same command."
        )
    trials = together(communicator, lambda: plan(spec, results))
    trainings = [(trial.config, trial.info) for trial in trials]
    check_room_side_by_side(trainings, communicator, _group_size(spec, communicator))
    with ExitStack() as held:
        on_root(communicator, lambda: held.enter_context(_claim(spec, trials, results)))
        return _run_rungs(spec, trials, communicator)


def _run_rungs(spec: Spec, trials: Sequence[Trial], communicator: Communicator) -> list[Standing]:
    """Train all trials, rung by rung; collective. See `run_sweep`."""
    num_ranks = _group_size(spec, communicator)
    in_it = list(range(len(trials)))
    last: dict[int, Standing] = {}
    rungs = spec.rungs(max(trial.config.training.epochs for trial in trials))
    for number, epochs in enumerate(rungs):
        if communicator.rank == 0:
            trials_text = f"{len(in_it)} trial{'s' * (len(in_it) > 1)}"
            num_groups = communicator.world_size // num_ranks
            click.echo(f"{trials_text} up to epoch {epochs}, {num_groups} side by side")
        _train(communicator, [trials[trial] for trial in in_it], epochs, num_ranks)
        standings = _standings(communicator, [trials[trial] for trial in in_it], epochs)
        last |= {standing.trial: replace(standing, rung=number) for standing in standings}
        in_it = survivors(standings, spec.sweep.factor)
        if not in_it:
            break
    return sorted(last.values(), key=lambda standing: standing.rank)


def _group_size(spec: Spec, communicator: Communicator) -> int:
    """Return how many ranks train a trial."""
    # The virtual ranks are those that the spec says, so fewer ranks give the same bits.
    return min(spec.sweep.ranks_per_trial, communicator.world_size)


def plan(spec: Spec, results: Path) -> list[Trial]:
    """Return all trials, each of which can be trained.

    Raises
    ------
    UserError
        When a trial can't: it names the trial and its own options.
    """
    trials = []
    for number, options in enumerate(spec.trials()):
        try:
            config = load_config(spec.base, spec.options(options))
            trials.append(_trial(number, options, config, spec, results))
        except UserError as error:
            told = ", ".join(f"{name} = {value}" for name, value in options.items())
            raise UserError(f"Trial {number} ({told}): {error}") from error
    return trials


def _trial(
    number: int, options: dict[str, str], config: Config, spec: Spec, results: Path
) -> Trial:
    config = resolve(config, spec.sweep.ranks_per_trial)
    with open_dataset(config) as dataset:
        if not dataset.info.num_samples["validation"]:
            raise UserError(
                f"{dataset.path} has no validation rows, by which trials are judged. Convert the "
                "data with --validation."
            )
        steps = Steps(sharding_of(config, dataset.info), config.training.accumulation)
        return Trial(number, options, config, dataset.info, steps.per_epoch, results)


@contextmanager
def _claim(spec: Spec, trials: Sequence[Trial], results: Path) -> Iterator[None]:
    """Make the search's folder, or see that it is the same search's, and keep others out of it.

    Raises
    ------
    UserError
        When it is another one's: it names the differences.
    """
    make_folder(results)
    record = results / "sweep.json"
    now = json.loads(json.dumps({**spec.as_json(), **_what_it_stands_on(spec, trials)}))
    if record.exists():
        before = {section: {} for section in now} | read_json(record)["spec"]
        differences = [
            f"{section}.{name} was {before[section].get(name)}, now it is {now[section].get(name)}"
            for section in now
            for name in sorted({*now[section], *before[section]})
            if before[section].get(name) != now[section].get(name)
            and not _is_longer(section, name, before, now)
        ]
        if differences:
            raise UserError(
                "\n  ".join([f"The search in {results} is another one:", *differences])
                + "\nGo on with it as it was (but for more trials), or take another --results."
            )
    elif any(not path.name.startswith(".") for path in results.iterdir()):
        # Hidden files are those of a search that was killed at once.
        raise UserError(f"{results} holds something else. Name another folder with --results.")
    with RunFolder(results).lock():
        write_json(record, {"spec": now})
        yield


def _what_it_stands_on(spec: Spec, trials: Sequence[Trial]) -> dict[str, dict[str, Any]]:
    """Return what is not in the spec, but must not change either."""
    base = read_toml(spec.base) if spec.base else {}
    fields = {f"{part}.{name}": value for part in base for name, value in base[part].items()}
    with open_dataset(trials[0].config) as dataset:
        return {"config": fields, "data": {"content_sha256": dataset.info.content_sha256}}


def _is_longer(
    section: str, name: str, before: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]]
) -> bool:
    # Its first trials are the same. Whoever goes on from a rung is chosen anew.
    is_trials = (section, name) == ("sweep", "trials")
    return is_trials and bool(now[section][name] > before[section][name])


def _train(
    communicator: Communicator, trials: Sequence[Trial], epochs: int, num_ranks: int
) -> None:
    """Train trials up to an epoch, each on a group of so many ranks; collective."""
    group = communicator.group(num_ranks)
    message, is_failure = "", False
    if group is not None:
        own = communicator.rank // num_ranks
        try:
            for trial in trials[own :: communicator.world_size // num_ranks]:
                trial.train(group, epochs)
                if group.rank == 0:
                    click.echo(_line(trial, epochs))
        except SharedError as error:
            message, is_failure = str(error), isinstance(error, SharedFailureError)
    # Whoever is done sleeps, for the others need the cores.
    communicator.meet()
    told = [
        json.loads(text) for text in communicator.gather_texts(json.dumps([message, is_failure]))
    ]
    for text, failure in told:
        if text:
            raise (SharedFailureError if failure else SharedError)(text)


def _line(trial: Trial, epochs: int) -> str:
    standing = trial.standing(epochs)
    options = ", ".join(f"{name} {value or '(none)'}" for name, value in trial.options.items())
    if standing.has_diverged:
        return f"Trial {trial.number}: diverged after epoch {standing.epochs} ({options})"
    return (
        f"Trial {trial.number}: {standing.accuracy:.2%} on validation after epoch "
        f"{standing.epochs} ({options})"
    )


def _standings(communicator: Communicator, trials: Sequence[Trial], epochs: int) -> list[Standing]:
    """Return how trials stood after so many epochs, as the root reads it; collective."""
    own = on_root(
        communicator, lambda: json.dumps([asdict(trial.standing(epochs)) for trial in trials])
    )
    return [Standing(**facts) for facts in json.loads(communicator.gather_texts(own or "")[0])]
