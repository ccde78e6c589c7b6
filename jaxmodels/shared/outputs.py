"""What a finished run leaves for people: metrics, predictions, plots, and the final weights."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.shared import metrics, plots
from jaxmodels.shared.data.images import ImageData
from jaxmodels.shared.run import Row
from jaxmodels.shared.tasks import Task
from jaxmodels.shared.weights import replaced, write_json


def write_outputs(
    folder: Path, task: Task, data: ImageData, logits: np.ndarray, history: list[Row], **facts: Any
) -> dict[str, Any]:
    """Writes metrics.json, predictions.csv and plots/ for the test split; returns the metrics.

    `logits` (N, K) are of the whole test split, in its order; `facts` join the metrics as they are.
    """
    labels, names = data.test.labels, data.class_names
    predictions = logits.argmax(axis=-1)
    confidences = np.exp(metrics.log_softmax(logits).max(axis=-1))
    loss, accuracy = metrics.loss_and_accuracy(logits, labels)
    content = {
        "task": task.name,
        "source": data.source,
        "test_examples": len(labels),
        "test_loss": loss,
        "test_accuracy": accuracy,
        "per_class_accuracy": dict(
            zip(names, metrics.per_class_accuracy(predictions, labels, len(names)), strict=True)
        ),
        "confusion_matrix": metrics.confusion_matrix(predictions, labels, len(names)),
        **facts,
    }
    write_json(folder / "metrics.json", content)
    _write_predictions(folder / "predictions.csv", names, labels, predictions, confidences)
    _draw(folder / "plots", task, data, history, predictions, confidences)
    return content


def _write_predictions(
    path: Path,
    class_names: tuple[str, ...],
    labels: np.ndarray,
    predictions: np.ndarray,
    confidences: np.ndarray,
) -> None:
    with replaced(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["index", "label", "prediction", "label_name", "prediction_name", "confidence"]
        )
        for index, (label, prediction) in enumerate(zip(labels, predictions, strict=True)):
            names = class_names[label], class_names[prediction]
            writer.writerow([index, label, prediction, *names, f"{confidences[index]:.6f}"])


def _draw(
    folder: Path,
    task: Task,
    data: ImageData,
    history: list[Row],
    predictions: np.ndarray,
    confidences: np.ndarray,
) -> None:
    folder.mkdir(exist_ok=True)
    images, labels, names = data.test.images, data.test.labels, data.class_names
    title = f"{task.name} on {data.source}"
    if history:
        plots.plot_curves(history, folder / "curves.png", title=title)
    plots.plot_confusion_matrix(
        labels, predictions, names, folder / "confusion_matrix.png", title=title
    )
    plots.plot_per_class_accuracy(
        labels, predictions, names, folder / "per_class_accuracy.png", title=title
    )
    for draw, name in (
        (plots.plot_sample_predictions, "sample_predictions.png"),
        (plots.plot_worst_misclassifications, "worst_misclassifications.png"),
    ):
        draw(images, labels, predictions, confidences, names, folder / name, title=title)
