"""The figures of the comparison of times to an accuracy as table, JSON and plot."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from lockstep.bench.accuracy_measurement import THRESHOLDS, AccuracyMeasurement, reached
from lockstep.bench.accuracy_plot import accuracy_by_time
from lockstep.bench.contestants import LOCKSTEP
from lockstep.bench.figures import Page, publish_figures, spread_content
from lockstep.bench.notes import notes_on_absent
from lockstep.bench.spread import Spread

_COLUMNS = (
    "contestant",
    "epoch",
    *(
        text.format(threshold)
        for threshold in THRESHOLDS
        for text in ("to {} %", "seeds that reach {} %", "time to {} % / Lockstep's")
    ),
    "best accuracy, %",
)
_NOTES = (
    """{num_seeds} trainings of {network} with ReLU on {data}, in turns, in one process with one
    thread: batches of {batch}, softmax with cross-entropy, AdamW with a learning rate that falls
    from {rate} to 0 along a cosine over {num_epochs} epochs, float32, from the initial weights that
    the seed gives Lockstep. The orders of the samples are everyone's own.""",
    """epoch: its mean time with its evaluation. Times count from the first step, with the
    evaluations of the {num_validation:,} validation samples, one after each epoch; loading the
    data, compiling, and an epoch to warm up don't count. Median (lowest to highest) of the seeds;
    ratios are taken seed by seed, where both got there.""",
)
_NOTES_ON_PEERS = {
    "PyTorch-eager": """PyTorch-eager: nn.Linear, CrossEntropyLoss, optim.AdamW,
    CosineAnnealingLR.""",
    "scikit-learn": """scikit-learn: MLPClassifier knows Adam only, without weight decay, and no
    schedule for it, so the learning rate is set from outside before each epoch.""",
    "JAX": "JAX: the steps of an epoch as one compiled loop (jit of lax.scan).",
}


def publish(measurement: AccuracyMeasurement, facts: dict[str, Any], folder: Path) -> None:
    """Write `accuracy.json`, `accuracy.md` and `accuracy.png`, and tell the figures.

    Parameters
    ----------
    measurement : AccuracyMeasurement
        What was measured.
    facts : dict
        See `lockstep.bench.environment`.
    folder : Path
        An existing one.
    """
    publish_figures(
        folder,
        "accuracy",
        page(measurement, facts),
        content(measurement),
        accuracy_by_time(measurement),
    )


def content(measurement: AccuracyMeasurement) -> dict[str, Any]:
    """Return all there is to keep: every training, and what was made of them."""
    return {
        **asdict(measurement),
        "thresholds": {
            f"{threshold} %": {
                name: {
                    "seconds": measurement.seconds_to(name, threshold),
                    "times_as_long_as_lockstep": _spread_or_none(
                        measurement.ratios(name, threshold)
                    ),
                }
                for name in measurement.curves
            }
            for threshold in THRESHOLDS
        },
        "epoch_s": {name: spread_content(measurement.epoch_s(name)) for name in measurement.curves},
    }


def _spread_or_none(values: list[float]) -> dict[str, Any] | None:
    return spread_content(values) if values else None


def page(measurement: AccuracyMeasurement, facts: dict[str, Any]) -> Page:
    """Return header, table and notes."""
    return Page(
        title="Time to an accuracy",
        facts=facts,
        columns=_COLUMNS,
        rows=[_cells(measurement, name) for name in measurement.curves],
        notes=_notes(measurement),
    )


def _cells(measurement: AccuracyMeasurement, contestant: str) -> list[str]:
    cells = [contestant, Spread.of(measurement.epoch_s(contestant)).seconds_text()]
    for threshold in THRESHOLDS:
        seconds = measurement.seconds_to(contestant, threshold)
        ratios = measurement.ratios(contestant, threshold)
        cells += [
            Spread.of(reached(seconds)).seconds_text() if reached(seconds) else "never",
            f"{len(reached(seconds))} of {len(seconds)}",
            Spread.of(ratios).text() if ratios and contestant != LOCKSTEP else "",
        ]
    return [*cells, Spread.of(measurement.best_accuracies(contestant)).text(100)]


def _notes(measurement: AccuracyMeasurement) -> list[str]:
    notes = [
        note.format(
            num_seeds=len(measurement.curves[LOCKSTEP]),
            network=measurement.network,
            data=measurement.data,
            batch=measurement.global_batch_size,
            rate=measurement.learning_rate,
            num_epochs=measurement.num_epochs,
            num_validation=measurement.num_validation,
        )
        for note in _NOTES
    ]
    notes += [text for name, text in _NOTES_ON_PEERS.items() if name in measurement.curves]
    return notes + notes_on_absent([measurement.absent])
