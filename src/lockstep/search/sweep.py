"""A whole search: all trials, rung by rung, on groups of ranks side by side."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from lockstep.config import Config, load_config
from lockstep.errors import SharedError, SharedFailureError, UserError
from lockstep.parallel.communicator import Communicator
from lockstep.parallel.verdict import on_root, together
from lockstep.search.spec import Spec
from lockstep.search.standings import Standing, survivors
from lockstep.search.trial import Trial
from lockstep.storage.run_folder import make_folder, read_json, write_json
from lockstep.train.blueprint import sharding_of
from lockstep.train.run import open_dataset, resolve
from lockstep.train.steps import Steps


def run_sweep(spec: Spec, communicator: Communicator, results: Path) -> list[Standing] | None:
    """Train all trials, as far as they are not; collective.

    The ranks form groups of `ranks_per_trial`, which train side by side: of those that take part in
    a rung, in the order of their numbers, each group has every so-manieth. Which group trains a
    trial makes no difference to it.

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
    list of Standing or None
        Of all trials, the best first; those that went further come before the others. On the root
        only.

    Raises
    ------
    SharedError
        On all ranks alike, when the search can't be made.
    """
    num_groups = communicator.world_size // spec.sweep.ranks_per_trial
    if not num_groups:
        raise SharedError(
            f"ranks_per_trial = {spec.sweep.ranks_per_trial}, but there are "
            f"{communicator.world_size} ranks. Start more of them, with -n, or lower it."
        )
    trials = together(communicator, lambda: plan(spec, results))
    on_root(communicator, lambda: _claim(spec, results))
    in_it = list(range(len(trials)))
    rungs = spec.rungs(trials[0].config.training.epochs)
    for rung in rungs:
        if communicator.rank == 0:
            trials_text = f"{len(in_it)} trial{'s' * (len(in_it) > 1)}"
            click.echo(f"{trials_text} up to epoch {rung}, {num_groups} side by side")
        _train(communicator, [trials[number] for number in in_it], rung, spec)
        standings = _standings(communicator, [trials[number] for number in in_it], rung)
        if rung != rungs[-1]:
            in_it = survivors(standings, spec.sweep.factor)
            if not in_it:
                break
    if communicator.rank != 0:
        return None
    return sorted((trial.standing() for trial in trials), key=lambda one: (-_reach(one), one.rank))


def _reach(standing: Standing) -> int:
    """Return how far a trial came, as far as that counts: to diverge is to come nowhere."""
    return 0 if standing.has_diverged else standing.epochs


def plan(spec: Spec, results: Path) -> list[Trial]:
    """Return all trials, each of which can be trained.

    Raises
    ------
    UserError
        When a trial can't: it names the trial and its own options.
    """
    base = Path(spec.sweep.config) if spec.sweep.config else None
    trials = []
    for number, options in enumerate(spec.trials()):
        try:
            config, steps_per_epoch = _check(load_config(base, spec.options(options)), spec)
        except UserError as error:
            told = ", ".join(f"{name} = {value}" for name, value in options.items())
            raise UserError(f"Trial {number} ({told}): {error}") from error
        trials.append(Trial(number, options, config, steps_per_epoch, results))
    return trials


def _check(config: Config, spec: Spec) -> tuple[Config, int]:
    config = resolve(config, spec.sweep.ranks_per_trial)
    with open_dataset(config) as dataset:
        if not dataset.info.num_samples["validation"]:
            raise UserError(
                f"{dataset.path} has no validation rows, by which trials are judged. Convert the "
                "data with --validation."
            )
        sharding = sharding_of(config, dataset.info)
    return config, Steps(sharding, config.training.accumulation).per_epoch


def _claim(spec: Spec, results: Path) -> None:
    """Make the search's folder, or see that it is the same search's.

    Raises
    ------
    UserError
        When it is another one's: it names the differences.
    """
    make_folder(results)
    record = results / "sweep.json"
    now = json.loads(json.dumps(spec.as_json()))
    if record.exists():
        before = read_json(record)["spec"]
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
    elif any(results.iterdir()):
        raise UserError(f"{results} holds something else. Name another folder with --results.")
    write_json(record, {"spec": now})


def _is_longer(
    section: str, name: str, before: dict[str, dict[str, int]], now: dict[str, dict[str, int]]
) -> bool:
    # With more trials, more may go on from a rung, and who was to go on still does.
    return (section, name) == ("sweep", "trials") and now[section][name] > before[section][name]


def _train(communicator: Communicator, trials: Sequence[Trial], epochs: int, spec: Spec) -> None:
    """Train trials up to an epoch, each on a group of ranks; collective."""
    num_ranks = spec.sweep.ranks_per_trial
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
