"""Metrics of a classifier in numpy, one implementation for every framework.

`None` stands for what is not defined: a precision of a class that was never predicted, say.
"""

from collections.abc import Sequence

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """logits (..., K) -> log probabilities (..., K), in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def cross_entropy_and_hits(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cross-entropy without smoothing, and 1 where right: (..., K), labels (...) -> both (...)."""
    of_label = np.take_along_axis(log_softmax(logits), labels[..., None], axis=-1)[..., 0]
    return -of_label, (logits.argmax(axis=-1) == labels).astype(np.float64)


def per_class_accuracy(
    predictions: np.ndarray, labels: np.ndarray, num_classes: int
) -> list[float | None]:
    """The fraction right of each class; None for a class with no example."""
    right = np.bincount(labels[predictions == labels], minlength=num_classes)
    total = np.bincount(labels, minlength=num_classes)
    return [float(r / t) if t else None for r, t in zip(right, total, strict=True)]


def confusion_matrix(
    predictions: np.ndarray, labels: np.ndarray, num_classes: int
) -> list[list[int]]:
    """Counts, a row a true class and a column a predicted one."""
    cells = np.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes).tolist()


def precision_recall_f1(
    predictions: np.ndarray, labels: np.ndarray, num_classes: int
) -> dict[str, list[float | None]]:
    """{"precision", "recall", "f1"}, each by class (van Rijsbergen 1979).

    Precision is undefined for a class never predicted, recall for one without an example, and F1
    only for one that is both.
    """
    right = np.bincount(labels[predictions == labels], minlength=num_classes)
    predicted = np.bincount(predictions, minlength=num_classes)
    total = np.bincount(labels, minlength=num_classes)

    def ratio(of: np.ndarray) -> list[float | None]:
        return [float(r / t) if t else None for r, t in zip(right, of, strict=True)]

    return {
        "precision": ratio(predicted),
        "recall": ratio(total),
        "f1": ratio((predicted + total) / 2),
    }


def macro_average(values: Sequence[float | None]) -> float | None:
    """The mean over the classes for which the metric is defined; None if there is none."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def roc_curve(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """scores (N,), labels (N,) in {0, 1} -> false and true positive rates, each (P,).

    From (0, 0), where nothing is called positive, to (1, 1); examples of one score move together.
    None if a class has no example or a score is NaN.
    """
    positives = int(labels.sum())
    if positives in (0, len(labels)) or np.isnan(scores).any():
        return None
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(labels) - 1)
    true = np.append(0, labels[order].cumsum()[ends])
    called = np.append(0, ends + 1)
    return (called - true) / (len(labels) - positives), true / positives


def area_under_roc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """The chance that a positive scores above a negative, ties counting half (Fawcett 2006).

    scores (N,), labels (N,) in {0, 1}; None where `roc_curve` is.
    """
    curve = roc_curve(scores, labels)
    return None if curve is None else float(np.trapezoid(curve[1], curve[0]))
