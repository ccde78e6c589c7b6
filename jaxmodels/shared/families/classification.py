"""What classifiers of images and of reviews leave behind alike."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.shared import metrics
from jaxmodels.shared.files import replaced


def summarise(
    predictions: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]
) -> dict[str, Any]:
    """Accuracy by class and the confusion matrix, for metrics.json."""
    count = len(class_names)
    of_class = metrics.per_class_accuracy(predictions, labels, count)
    return {
        "per_class_accuracy": dict(zip(class_names, of_class, strict=True)),
        "confusion_matrix": metrics.confusion_matrix(predictions, labels, count),
    }


def write_predictions(
    path: Path,
    class_names: tuple[str, ...],
    labels: np.ndarray,
    predictions: np.ndarray,
    confidences: np.ndarray,
) -> None:
    """One row an example of the split, in its order. All (N,)."""
    with replaced(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["index", "label", "prediction", "label_name", "prediction_name", "confidence"]
        )
        for index, (label, prediction) in enumerate(zip(labels, predictions, strict=True)):
            names = class_names[label], class_names[prediction]
            writer.writerow([index, label, prediction, *names, f"{confidences[index]:.6f}"])
