"""What augmentation costs: step times with each kind of it beside those without."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
from threadpoolctl import threadpool_limits

from lockstep.bench.augmentation_measurement import PLAIN, AugmentationMeasurement
from lockstep.bench.case import Case, steps_only
from lockstep.bench.environment import environment
from lockstep.bench.made_up import made_up_images
from lockstep.bench.rounds import take_turns, warm_up
from lockstep.bench.steps import time_steps
from lockstep.config import Augmentation, Optimization
from lockstep.data.dataset_file import DatasetFile
from lockstep.parallel.single import SingleProcess
from lockstep.storage.run_folder import make_folder
from lockstep.train.blueprint import network_of
from lockstep.train.run import resolve

CASES = (Case((512, 512), 128), Case((1500, 1000, 500), 256))
# For a quick look at whether all works.
TINY_CASES = (Case((8,), 32),)

_AFFINE = Augmentation(shift=1, rotation=12, zoom=0.15, shear=10)
_ELASTIC = Augmentation(elastic_strength=36, elastic_smoothness=6)
_BOTH = replace(_AFFINE, elastic_strength=36, elastic_smoothness=6)
_KINDS = {
    PLAIN: Augmentation(),
    "shift": Augmentation(shift=1),
    "affine": _AFFINE,
    "elastic": _ELASTIC,
    "affine, elastic": _BOTH,
    "noise": Augmentation(noise=0.1),
    "erasing": Augmentation(erasing=0.3),
    "all": replace(_BOTH, noise=0.1, erasing=0.3),
}


def benchmark_augmentation(num_rounds: int, cases: Sequence[Case], out: Path, command: str) -> None:
    """Measure, tell the figures, and write them to a folder.

    Parameters
    ----------
    num_rounds : int
        In each, all kinds have their turn.
    cases : sequence of Case
        The networks.
    out : Path
        The folder for `augmentation.json`, `augmentation.md` and `augmentation.png`.
    command : str
        What repeats the benchmark.

    Raises
    ------
    UserError
        When the folder can't be made.
    """
    make_folder(out)
    measurements = []
    with threadpool_limits(1, user_api="blas"), made_up_images() as dataset:
        facts = environment(SingleProcess(), command)
        for case in cases:
            measurements.append(measure(case, dataset, num_rounds))
            click.echo(f"Measured {measurements[-1].network}, batch {case.global_batch_size}")

    from lockstep.bench.augmentation_report import publish  # noqa: PLC0415 - plots

    publish(measurements, facts, out)


def measure(case: Case, dataset: DatasetFile, num_rounds: int) -> AugmentationMeasurement:
    """Measure all kinds, round by round.

    Parameters
    ----------
    case : Case
        The network.
    dataset : DatasetFile
        Open; images.
    num_rounds : int
        How many rounds.
    """
    base = steps_only(case, Optimization(optimizer="adamw", schedule="constant"))

    def mean_step_s(augmentation: Augmentation, num_steps: int) -> float:
        config = resolve(replace(base, augmentation=augmentation), world_size=1)
        return time_steps(config, dataset, SingleProcess(), num_steps).step_s

    num_steps = warm_up(partial(mean_step_s, Augmentation()), case.num_steps)
    step_s = take_turns(
        {kind: partial(mean_step_s, one, num_steps) for kind, one in _KINDS.items()}, num_rounds
    )
    network = network_of(base, dataset.info)
    return AugmentationMeasurement(
        network="-".join(map(str, network.widths)),
        num_parameters=network.num_parameters,
        global_batch_size=case.global_batch_size,
        num_steps=num_steps,
        step_s=step_s,
    )
