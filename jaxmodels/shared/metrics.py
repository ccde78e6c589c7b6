"""Metrics of a classifier in numpy, one implementation for every framework."""

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
