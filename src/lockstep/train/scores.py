"""Scores per class from a confusion matrix, by scikit-learn."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.train.evaluation import Classification


def scores(found: Classification | None, class_names: Sequence[str]) -> dict[str, Any]:
    """Return the scores of a split.

    Parameters
    ----------
    found : Classification or None
        None gives the same keys without values.
    class_names : sequence of str
        One per class.

    Returns
    -------
    dict
        accuracy, loss, correct, total, macro_f1, confusion_matrix and per_class.
    """
    if found is None:
        names = ("accuracy", "loss", "correct", "total")
        return dict.fromkeys([*names, "macro_f1", "confusion_matrix", "per_class"])
    per_class = per_class_scores(found.confusion, class_names)
    return {
        "accuracy": found.score.accuracy,
        "loss": found.score.loss,
        "correct": found.score.correct,
        "total": found.score.total,
        "macro_f1": float(np.mean([line["f1"] for line in per_class])),
        "confusion_matrix": found.confusion.tolist(),
        "per_class": per_class,
    }


def per_class_scores(
    confusion: NDArray[np.int64], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Return precision, recall, F1 and support of each class.

    Parameters
    ----------
    confusion : ndarray of int64 (num_classes, num_classes)
        Samples by true class (rows) and predicted class (columns).
    class_names : sequence of str
        One per class.

    Returns
    -------
    list of dict
        With the keys class, precision, recall, f1 and support; 0 where there is nothing to
        divide by.
    """
    # Slow to import, and not needed before the training is done.
    from sklearn.metrics import precision_recall_fscore_support  # noqa: PLC0415

    classes = np.arange(len(class_names))
    # Each cell of the matrix stands for as many samples as it counts.
    true, predicted = (index.ravel() for index in np.indices(confusion.shape))
    by_class = precision_recall_fscore_support(
        true, predicted, labels=classes, sample_weight=confusion.ravel(), zero_division=0.0
    )
    return [
        {
            "class": name,
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "support": int(support),
        }
        for name, precision, recall, f1, support in zip(class_names, *by_class, strict=True)
    ]
