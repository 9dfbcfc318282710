import json

import numpy as np
import pytest

from lockstep.storage.run_folder import RunFolder, append_json_line, write_arrays, write_json


def _phases(epoch_s):
    return {
        "compute_s": 0.6 * epoch_s,
        "reduce_s": 0.15 * epoch_s,
        "update_s": 0.05 * epoch_s,
        "data_s": 0.05 * epoch_s,
        "evaluation_s": 0.1 * epoch_s,
    }


def _metrics(num_epochs, val_total):
    for epoch in range(1, num_epochs + 1):
        correct = round(val_total * (0.98 - 0.4 * np.exp(-0.4 * epoch)))
        yield {
            "epoch": epoch,
            "step": 500 * epoch,
            "train_loss": 2.0 * np.exp(-0.3 * epoch),
            "val_loss": 0.1 + 2.0 * np.exp(-0.25 * epoch) if val_total else None,
            "val_accuracy": correct / val_total if val_total else None,
            "val_correct": correct if val_total else None,
            "val_total": val_total or None,
            "lr": 1e-3 * (1 - epoch / (num_epochs + 1)),
            "epoch_s": 2.0,
            "samples_per_s": 25000.0,
            **_phases(2.0),
        }


def _confusion_matrix(rng, num_classes, per_class):
    shares = rng.dirichlet(np.full(num_classes, 2 / num_classes), num_classes) * 0.1
    shares += 0.9 * np.eye(num_classes)
    return np.array([rng.multinomial(per_class, row) for row in shares])


def _per_class(matrix, names):
    right = np.diag(matrix)
    precision = right / np.maximum(matrix.sum(axis=0), 1)
    recall = right / np.maximum(matrix.sum(axis=1), 1)
    f1 = 2 * right / np.maximum(matrix.sum(axis=0) + matrix.sum(axis=1), 1)
    return [
        {"class": name, "precision": p, "recall": r, "f1": f, "support": int(support)}
        for name, p, r, f, support in zip(
            names, precision, recall, f1, matrix.sum(axis=1), strict=True
        )
    ]


def _summary(metrics, matrix, names):
    total, correct = int(matrix.sum()), int(np.trace(matrix))
    per_class = _per_class(matrix, names)
    best = max(metrics, key=lambda line: line["val_correct"] or 0)
    return {
        "test_accuracy": correct / total,
        "test_loss": 0.21,
        "test_correct": correct,
        "test_total": total,
        "confusion_matrix": matrix.tolist(),
        "per_class": per_class,
        "macro_f1": float(np.mean([line["f1"] for line in per_class])),
        "weights_sha256": "5e" * 32,
        "num_steps": metrics[-1]["step"],
        "num_epochs": len(metrics),
        "best_epoch": best["epoch"],
        "best_val_accuracy": best["val_accuracy"],
        "tested_epoch": best["epoch"],
        "tested_weights": "best",
        "wall_time_s": 2.1 * len(metrics),
        "stopped_early": False,
    }


def _run(names, feature_shape):
    return {
        "run": "made-up",
        "started": "2025-01-02T03:04:05+00:00",
        "ended": "2025-01-02T03:05:05+00:00",
        "network": "784-64-32-16-10",
        "num_parameters": 53018,
        "world_size": 2,
        "virtual_ranks": 8,
        "hosts": {"alpha": 1, "beta": 1},
        "seed": 7,
        "dataset": {
            "path": "data/made-up.h5",
            "name": "made-up",
            "content_sha256": "ab" * 32,
            "num_samples": {"train": 50000, "validation": 10000, "test": 10000},
            "feature_shape": list(feature_shape),
            "class_names": names,
        },
        "versions": {"lockstep": "0.1.0", "python": "3.11.9", "numpy": "2.3.0"},
        "blas": {
            "library": "OpenBLAS",
            "kernel": "SkylakeX",
            "threads": 1,
            "pinned": {"OPENBLAS_NUM_THREADS": "1"},
        },
        "machine": {"cpu": "made up", "cores": 2},
    }


def _figures(rng, num_mistakes, feature_shape, num_classes):
    true = rng.integers(num_classes, size=num_mistakes)
    probability = np.sort(rng.uniform(0.5, 1, num_mistakes).astype(np.float32))[::-1]
    num_features = int(np.prod(feature_shape))
    return {
        "mistakes.x": rng.integers(256, size=(num_mistakes, *feature_shape), dtype=np.uint8),
        "mistakes.true": true,
        "mistakes.predicted": (true + 1) % num_classes,
        "mistakes.probability": probability,
        "mistakes.true_probability": (1 - probability) / 2,
        "mistakes.index": rng.permutation(1000)[:num_mistakes],
        "first_layer.weight": rng.normal(0, 0.1, (6, num_features)).astype(np.float32),
    }


@pytest.fixture
def make_run(tmp_path):
    """Return a function that writes the folder of a run with made-up but consistent results."""

    def make(
        num_classes=10,
        num_epochs=5,
        feature_shape=(6, 5),
        val_total=10000,
        num_mistakes=5,
        names=None,
    ):
        rng = np.random.default_rng(0)
        names = names or [f"class {index}" for index in range(num_classes)]
        metrics = list(_metrics(num_epochs, val_total))
        matrix = _confusion_matrix(rng, num_classes, per_class=1000)

        folder = RunFolder.create(tmp_path / "results" / "made-up")
        folder.config.write_text('[network]\nlayers = [64, 32, 16]\ncomment = "<b>&"\n')
        write_json(folder.run, _run(names, feature_shape))
        for line in metrics:
            append_json_line(folder.metrics, line)
        write_json(folder.summary, _summary(metrics, matrix, names))
        write_arrays(folder.figures, _figures(rng, num_mistakes, feature_shape, num_classes))
        return folder

    return make


@pytest.fixture
def change_json():
    """Return a function that sets values of a JSON file."""

    def change(path, **values):
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change
