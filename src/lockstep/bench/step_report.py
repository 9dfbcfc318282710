"""The figures of the comparison of step times as table, JSON and plot."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lockstep.bench.contestants import LOCKSTEP, PRODUCTS
from lockstep.bench.figures import Page, publish_figures, spread_content
from lockstep.bench.notes import notes_on_absent
from lockstep.bench.spread import Spread
from lockstep.bench.step_measurement import StepMeasurement
from lockstep.bench.step_plot import step_times

_COLUMNS = (
    "network, batch",
    "contestant",
    "step time",
    "samples/s",
    "GFLOP/s",
    "of the products' rate",
    "step time / Lockstep's",
)
_NOTES = (
    """Training steps of one process with one thread: a shuffled batch gathered out of 8,192 rows of
    784 features in memory, forward and backward pass, softmax with cross-entropy, plain SGD,
    float32, from the same initial weights. Step time: the mean over the steps of a round; median
    (lowest to highest) of the rounds. Compiling, and steps to warm up, don't count.""",
    """products: the matrix products of a step and nothing else, with NumPy, each in the layout that
    was the fastest for it. GFLOP/s counts these products only. The last two columns are ratios
    within each round: what a step would take with its products alone, divided by what it takes;
    and how many times as long as Lockstep's it takes.""",
)
_NOTE_ON_PYTORCH = "*: PyTorch's better mode for this network, which is the one that counts."
_NOTES_ON_PEERS = {
    "PyTorch-eager": "PyTorch-eager: nn.Linear, CrossEntropyLoss, backward(), optim.SGD.",
    "PyTorch-compiled": """PyTorch-compiled: gather, forward, gradient and update as one function
    compiled by torch.compile, called through C++.""",
    "scikit-learn": "scikit-learn: MLPClassifier, an epoch in each call of partial_fit.",
    "JAX": """JAX: the steps of an epoch as one compiled loop (jit of lax.scan), with its own
    buffers given back to it.""",
    "per-sample": """per-sample: a NumPy loop over the samples of a batch, as in the recognizer
    that many have started from.""",
}
# Of a core; some libraries leave a little work to other threads.
_MORE_THAN_ONE = 1.1


def publish(measurements: Sequence[StepMeasurement], facts: dict[str, Any], folder: Path) -> None:
    """Write `step.json`, `step.md` and `step.png`, and tell the figures.

    Parameters
    ----------
    measurements : sequence of StepMeasurement
        At least one.
    facts : dict
        See `lockstep.bench.environment`.
    folder : Path
        An existing one.
    """
    publish_figures(
        folder, "step", page(measurements, facts), content(measurements), step_times(measurements)
    )


def content(measurements: Sequence[StepMeasurement]) -> dict[str, Any]:
    """Return all there is to keep: every round, and what was made of them."""
    return {
        "measurements": [
            {
                **asdict(one),
                "step_s_spread": {name: asdict(Spread.of(one.step_s[name])) for name in one.step_s},
                "samples_per_s": {name: one.samples_per_s(name) for name in one.step_s},
                "flops_per_s": {name: one.flops_per_s(name) for name in one.step_s},
                "fraction_of_products": {
                    name: spread_content(one.fractions(name)) for name in one.step_s
                },
                "times_as_long_as_lockstep": {
                    name: spread_content(one.ratios(name)) for name in one.step_s
                },
                "better_pytorch": one.better_pytorch,
            }
            for one in measurements
        ],
    }


def page(measurements: Sequence[StepMeasurement], facts: dict[str, Any]) -> Page:
    """Return header, table and notes."""
    return Page(
        title="Time of a training step",
        facts=facts,
        columns=_COLUMNS,
        rows=[cells for one in measurements for cells in _rows(one)],
        notes=_notes(measurements),
    )


def _rows(one: StepMeasurement) -> list[list[str]]:
    """Return a row for each contestant; only the first of them names the network."""
    names = [f"{one.network}, {one.global_batch_size}", *[""] * (len(one.step_s) - 1)]
    return [
        [network, *_cells(one, contestant)]
        for network, contestant in zip(names, one.step_s, strict=True)
    ]


def _cells(one: StepMeasurement, contestant: str) -> list[str]:
    is_product = contestant == PRODUCTS
    return [
        f"{contestant}{'*' if contestant == one.better_pytorch else ''}",
        Spread.of(one.step_s[contestant]).seconds_text(),
        "" if is_product else f"{one.samples_per_s(contestant):,.0f}",
        f"{one.flops_per_s(contestant) / 1e9:.1f}",
        "" if is_product else Spread.of(one.fractions(contestant)).text(),
        "" if contestant == LOCKSTEP else Spread.of(one.ratios(contestant)).text(),
    ]


def _notes(measurements: Sequence[StepMeasurement]) -> list[str]:
    present = {name for one in measurements for name in one.step_s}
    notes = [*_NOTES, " ".join(text for name, text in _NOTES_ON_PEERS.items() if name in present)]
    if any(one.better_pytorch for one in measurements):
        notes.append(_NOTE_ON_PYTORCH)
    notes += notes_on_absent(one.absent for one in measurements)
    for one in measurements:
        notes += [
            f"{name} used {cores:.1f} cores for {one.network}, batch {one.global_batch_size}."
            for name, cores in one.num_cores.items()
            if cores > _MORE_THAN_ONE
        ]
    return [note for note in notes if note]
