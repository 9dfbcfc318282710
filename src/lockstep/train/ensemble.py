"""Ensembles: the outputs of several runs' networks, averaged."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.arrays import Array
from lockstep.config import Config, load_config
from lockstep.data.dataset_file import DatasetFile
from lockstep.errors import UserError
from lockstep.parallel.communicator import Communicator
from lockstep.parallel.verdict import on_first_ranks, together
from lockstep.storage.run_folder import RunFolder
from lockstep.train.blueprint import memory_budget
from lockstep.train.evaluation import Block, Evaluation
from lockstep.train.model import Model
from lockstep.train.run import open_split, run_model
from lockstep.train.scores import scores
from lockstep.train.session import blas_threads


@dataclass(frozen=True)
class Member:
    """One run of an ensemble.

    Parameters
    ----------
    path : Path
        The run folder, as the user has named it.
    config : Config
        The run's.
    model : Model
        Its tested weights.
    """

    path: Path
    config: Config
    model: Model


def open_members(paths: Sequence[Path], data: Path | None = None) -> list[Member]:
    """Load the runs of an ensemble, in the order in which they are named.

    Parameters
    ----------
    paths : sequence of Path
        The run folders.
    data : Path, optional
        Another data set than the runs' own.

    Raises
    ------
    UserError
        When one is no run, can't be read or is named twice, or two don't fit each other.
    """
    folders = [RunFolder.open(path) for path in paths]
    for a, b in combinations(paths, 2):
        if a.resolve() == b.resolve():
            raise UserError(f"{a} and {b} are the same run: name each run once.")
    changes = {"data": str(data)} if data else {}
    members = [
        Member(folder.path, load_config(folder.config, changes), run_model(folder))
        for folder in folders
    ]
    first, *others = members
    for other in others:
        if difference := _difference(first.model, other.model):
            raise UserError(f"{first.path} and {other.path} can't be averaged: {difference}")
    return members


def _difference(a: Model, b: Model) -> str:
    """Tell why the outputs of two networks can't be averaged; empty if they can."""
    if a.form.feature_shape != b.form.feature_shape:
        return f"their samples are of shape {a.form.feature_shape} and {b.form.feature_shape}."
    if len(a.class_names) != len(b.class_names):
        return f"they have {len(a.class_names)} and {len(b.class_names)} classes."
    for number, names in enumerate(zip(a.class_names, b.class_names, strict=True)):
        if len(set(names)) > 1:
            return f"their class {number} is {names[0]} and {names[1]}."
    if a.form != b.form:
        return (
            f"their images are stored as image_form {a.form.image_form} with white = "
            f"{a.form.white}, and {b.form.image_form} with white = {b.form.white}."
        )
    if a.network.loss != b.network.loss:
        # An average of both would be neither a probability nor what a quadratic loss aims at.
        return (
            f"their loss is {a.network.loss} and {b.network.loss}, and only the outputs of "
            "cross_entropy add up to 1. Average runs of the same loss."
        )
    return ""


def mean_outputs(outputs: Sequence[Array]) -> NDArray[np.float64]:
    """Return the mean of networks' outputs, added in their order, in float64.

    Members count alike (L. K. Hansen, P. Salamon, "Neural network ensembles", IEEE TPAMI 12
    (1990); D. Ciresan, U. Meier, J. Schmidhuber, "Multi-column deep neural networks for image
    classification", CVPR (2012), section 2).
    """
    total = reduce(np.add, (each.astype(np.float64) for each in outputs))
    mean: NDArray[np.float64] = total / len(outputs)
    return mean


def mean_probabilities(members: Sequence[Member], stored: Array) -> NDArray[np.float64]:
    """Return the mean of the members' outputs for samples; see `Model.probabilities`."""
    return mean_outputs([member.model.probabilities(stored) for member in members])


def evaluate_ensemble(
    paths: Sequence[Path], data: Path | None, split: str, communicator: Communicator
) -> dict[str, Any]:
    """Score the mean outputs of several runs' tested weights on a split; collective.

    All members are evaluated in the same division of the split, that of the run with the most
    virtual ranks. More ranks than that are left out, for with another division the last bits of
    the outputs would not be the same. The settings of the first run hold for BLAS threads.

    Parameters
    ----------
    paths : sequence of Path
        The run folders; the outputs are added in this order.
    data : Path, optional
        Another data set than the runs' own.
    split : str
        "train", "validation" or "test".
    communicator : Communicator
        The ranks.

    Returns
    -------
    dict
        On ranks that take part: see `lockstep.train.scores.scores`, and members, a list of dict
        with run, accuracy, loss, correct and total. The loss is the members' own, of the mean
        outputs. Empty on the others.

    Raises
    ------
    SharedError
        When the runs don't fit each other or the data, or one can't be read.
    """

    def prepare() -> tuple[list[Member], DatasetFile]:
        members = open_members(paths, data)
        first, *others = members
        for other in others:
            if not data and other.model.dataset_sha256 != first.model.dataset_sha256:
                raise UserError(
                    f"{first.path} and {other.path} were trained on different data, and what is "
                    "a test row of the one may be a training row of the other. To score them "
                    "together all the same, name a data set with --data."
                )
        return members, open_split(first.config, first.model, split, is_own=not data)

    members, dataset = together(communicator, prepare)
    virtual_ranks = max(member.config.training.virtual_ranks for member in members)
    with dataset, blas_threads(members[0].config):
        told = on_first_ranks(
            communicator,
            min(communicator.world_size, virtual_ranks),
            lambda ranks: _evaluate(members, dataset, split, ranks, virtual_ranks),
        )
    return told or {}


def _evaluate(
    members: Sequence[Member],
    dataset: DatasetFile,
    split: str,
    communicator: Communicator,
    virtual_ranks: int,
) -> dict[str, Any]:
    """Evaluate all members side by side, block by block; collective."""

    def evaluation_of(member: Member) -> Evaluation:
        budget = memory_budget(member.config, dataset)
        return Evaluation(
            member.model.network,
            dataset,
            split,
            member.model.scaling,
            communicator,
            virtual_ranks,
            # All of them hold rows at the same time.
            replace(budget, megabytes=budget.megabytes / len(members)),
        )

    evaluations = together(communicator, lambda: [evaluation_of(member) for member in members])
    tallies = [evaluation.new_tally() for evaluation in evaluations]
    of_mean = evaluations[0].new_tally()
    model = members[0].model
    passes = [
        evaluation.blocks(member.model.parameters)
        for evaluation, member in zip(evaluations, members, strict=True)
    ]
    for blocks in zip(*passes, strict=True):
        for tally, block in zip(tallies, blocks, strict=True):
            tally.add(block)
        of_mean.add(mean_block(blocks, model.network.loss))
    told = [tally.result(communicator).score for tally in tallies]
    return {
        **scores(of_mean.result(communicator), model.class_names),
        "members": [
            {"run": str(member.path), "accuracy": score.accuracy, **asdict(score)}
            for member, score in zip(members, told, strict=True)
        ],
    }


def mean_block(blocks: Sequence[Block], loss: str) -> Block:
    """Return what the mean outputs of some networks make of the same samples.

    Parameters
    ----------
    blocks : sequence of Block
        Of the same samples, one per network.
    loss : str
        All networks' loss, "cross_entropy" or "quadratic".
    """
    mean = mean_outputs([block.outputs for block in blocks])
    losses = _LOSSES[loss](blocks, mean)
    return replace(blocks[0], predicted=mean.argmax(axis=1), outputs=mean, losses=losses)


def _cross_entropy(blocks: Sequence[Block], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return -log of the true class's mean probability, by sample.

    Computed as log(K) - log(sum(exp(-loss))) of the K members' losses, which stays finite where
    all their probabilities round to 0.
    """
    del mean
    logarithms = [-block.losses.astype(np.float64) for block in blocks]
    losses: NDArray[np.float64] = np.log(len(blocks)) - reduce(np.logaddexp, logarithms)
    return losses


def _quadratic(blocks: Sequence[Block], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return half the squared distance of the mean outputs to the target, by sample."""
    classes = np.arange(mean.shape[1])[:, np.newaxis]
    target = blocks[0].labels[:, np.newaxis, :] == classes
    losses: NDArray[np.float64] = 0.5 * np.sum((mean - target) ** 2, axis=1)
    return losses


_LOSSES = {"cross_entropy": _cross_entropy, "quadratic": _quadratic}
