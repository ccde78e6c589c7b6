"""Metrics of a classifier in numpy, one implementation for every framework."""

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """logits (N, K) -> log probabilities (N, K), in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def loss_and_accuracy(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Mean cross-entropy (without smoothing) and the fraction right: logits (N, K), labels (N,)."""
    of_label = log_softmax(logits)[np.arange(len(labels)), labels]
    return float(-of_label.mean()), float((logits.argmax(axis=-1) == labels).mean())


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
