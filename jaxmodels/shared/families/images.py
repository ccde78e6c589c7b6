"""Image classification: CIFAR-10 and its like."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.shared import metrics
from jaxmodels.shared.data import image_batches
from jaxmodels.shared.data.batches import Batch
from jaxmodels.shared.data.counters import Host
from jaxmodels.shared.data.images import ImageData, ImageDataConfig, load_images
from jaxmodels.shared.families import rows as row_family
from jaxmodels.shared.families.classification import summarise, write_predictions
from jaxmodels.shared.families.family import Evaluation, Predict, SplitName
from jaxmodels.shared.families.sizes import check_sizes
from jaxmodels.shared.files import read_json
from jaxmodels.shared.fine_tuning import fitted_folder
from jaxmodels.shared.hub.download import find_folder
from jaxmodels.shared.plots import runs as plots
from jaxmodels.shared.tasks import Task

UNIT = "images"
INPUTS = ("image",)
TARGET = "label"
LOSS = "cross-entropy"
METRIC = "accuracy"
KEEP_OUTPUTS = True
MEASURED_BEFORE = False

NORMALISATION_FILE = "normalisation.json"
_PREPROCESSOR_FILE = "preprocessor_config.json"


def load(source: str, task: Task, run: Path | None = None) -> ImageData:
    assert isinstance(task.data, ImageDataConfig)
    data = load_images(source, task.data)
    height, width, channels = data.train.images.shape[1:]
    check_sizes(
        task,
        data.source,
        image_size=task.data.resize_to or (height if height == width else f"{height}x{width}"),
        in_channels=channels,
        num_classes=len(data.class_names),
    )
    if fitted := fitted_folder(task, run):
        mean, std, _ = read_normalisation(fitted)
    elif task.training.pretrained:
        mean, std = checkpoint_normalisation(find_folder(task.training.pretrained), data)
    else:
        return data
    return replace(data, mean=mean, std=std)


def fitted_files(data: ImageData) -> dict[str, str]:
    content = {
        "mean": data.mean.tolist(),
        "std": data.std.tolist(),
        "class_names": data.class_names,
    }
    return {NORMALISATION_FILE: json.dumps(content, indent=2) + "\n"}


def checkpoint_normalisation(folder: Path, data: ImageData) -> tuple[np.ndarray, np.ndarray]:
    """mean and std (C,) float32 that the checkpoint was trained with, or the data's own.

    The Hub keeps them in `preprocessor_config.json`, for pixels in [0, 1].

    Raises:
        ValueError: the file is malformed, or its images have other channels.
    """
    path = folder / _PREPROCESSOR_FILE
    if not path.exists():
        return data.mean, data.std
    content: Any = read_json(path)
    try:
        mean, std = (np.array(content[name], np.float32) for name in ("image_mean", "image_std"))
        if mean.shape != data.mean.shape or std.shape != data.std.shape or not (std > 0).all():
            raise ValueError(f"image_mean {mean.tolist()}, image_std {std.tolist()}")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is malformed ({error}); expected image_mean and image_std of "
            f"{len(data.mean)} channels; fetch it again"
        ) from None
    return mean, std


def read_normalisation(run: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """mean and std (C,) float32 of the run's training pixels, and its class names.

    Raises:
        ValueError: the file is missing or malformed.
    """
    path = run / NORMALISATION_FILE
    content: Any = read_json(path)
    try:
        mean, std = (np.array(content[name], np.float32) for name in ("mean", "std"))
        return mean, std, tuple(content["class_names"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is malformed ({error!r}); expected mean, std and class_names; restore it from "
            "a copy"
        ) from None


count = row_family.count
steps_per_epoch = row_family.steps_per_epoch
units_per_step = row_family.units_per_step
in_words = row_family.in_words
explain_divergence = row_family.explain_divergence


def training_batches(
    task: Task, data: ImageData, start_step: int = 0, *, host: Host = 0, num_hosts: int = 1
) -> Iterator[Batch]:
    assert isinstance(task.data, ImageDataConfig)
    return image_batches.training_batches(
        data,
        task.data,
        batch_size=task.training.batch_size,
        seed=task.training.seed,
        start_step=start_step,
        host=host,
        num_hosts=num_hosts,
    )


def evaluation_batches(task: Task, data: ImageData, split: SplitName) -> Iterator[Batch]:
    assert isinstance(task.data, ImageDataConfig)
    rows = getattr(data, split)
    size = row_family.evaluation_size(task, rows)
    return image_batches.evaluation_batches(rows, data, task.data, batch_size=size)


def score(task: Task, outputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return metrics.cross_entropy_and_hits(outputs, targets)


def write_outputs(
    folder: Path,
    task: Task,
    data: ImageData,
    split: SplitName,
    evaluation: Evaluation,
    history: list[dict[str, Any]],
    predict: Predict,
) -> dict[str, Any]:
    """predictions.csv and plots/."""
    assert evaluation.outputs is not None
    rows, names = getattr(data, split), data.class_names
    images, labels = rows.images, rows.labels
    predictions = evaluation.outputs.argmax(axis=-1)
    confidences = np.exp(metrics.log_softmax(evaluation.outputs).max(axis=-1))
    write_predictions(folder / "predictions.csv", names, labels, predictions, confidences)
    drawn = folder / "plots"
    drawn.mkdir(exist_ok=True)
    title = f"{task.name} on {data.source}"
    if history:
        plots.plot_curves(history, drawn / "curves.png", title=title)
    for draw, name in (
        (plots.plot_confusion_matrix, "confusion_matrix.png"),
        (plots.plot_per_class_accuracy, "per_class_accuracy.png"),
    ):
        draw(labels, predictions, names, drawn / name, title=title)
    for draw, name in (
        (plots.plot_sample_predictions, "sample_predictions.png"),
        (plots.plot_worst_misclassifications, "worst_misclassifications.png"),
    ):
        draw(images, labels, predictions, confidences, names, drawn / name, title=title)
    return summarise(predictions, labels, names)
