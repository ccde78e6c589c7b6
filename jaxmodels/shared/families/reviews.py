"""Sentiment: reviews in, one of two classes out."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.shared import metrics
from jaxmodels.shared.data.batches import Batch
from jaxmodels.shared.data.counters import Host
from jaxmodels.shared.data.reviews import ReviewData, ReviewDataConfig, TokenSplit, load_reviews
from jaxmodels.shared.data.vocabulary import Vocabulary
from jaxmodels.shared.families import rows as row_family
from jaxmodels.shared.families.classification import summarise, write_predictions
from jaxmodels.shared.families.family import Evaluation, Predict, SplitName
from jaxmodels.shared.families.sizes import check_sizes, check_vocabulary
from jaxmodels.shared.files import read_json, replaced
from jaxmodels.shared.fine_tuning import fitted_folder
from jaxmodels.shared.plots import reviews as review_plots
from jaxmodels.shared.plots import runs as plots
from jaxmodels.shared.tasks import Task

UNIT = "reviews"
INPUTS = ("tokens", "lengths")
TARGET = "label"
LOSS = "cross-entropy"
METRIC = "accuracy"
KEEP_OUTPUTS = True
MEASURED_BEFORE = False

VOCABULARY_FILE = "vocabulary.json"
_WORST = 20  # misclassified reviews that are written out


def load(source: str, task: Task, run: Path | None = None) -> ReviewData:
    assert isinstance(task.data, ReviewDataConfig)
    fitted = fitted_folder(task, run)
    vocabulary = read_vocabulary(fitted)[0] if fitted else None
    data = load_reviews(source, task.data, vocabulary=vocabulary)
    check_sizes(task, data.source, num_classes=len(data.class_names))
    check_vocabulary(task, data.source, len(data.vocabulary))
    return data


def fitted_files(data: ReviewData) -> dict[str, str]:
    content = {"class_names": data.class_names, "words": data.vocabulary.to_json()}
    return {VOCABULARY_FILE: json.dumps(content, ensure_ascii=False) + "\n"}


def read_vocabulary(run: Path) -> tuple[Vocabulary, tuple[str, ...]]:
    """A run's vocabulary and class names.

    Raises:
        ValueError: the file is missing or malformed.
    """
    path = run / VOCABULARY_FILE
    content = read_json(path)
    if not isinstance(content, dict) or content.keys() != {"class_names", "words"}:
        raise ValueError(f"{path} is malformed; expected class_names and words; restore it")
    return Vocabulary.from_json(content["words"], where=str(path)), tuple(content["class_names"])


count = row_family.count
steps_per_epoch = row_family.steps_per_epoch
units_per_step = row_family.units_per_step
in_words = row_family.in_words
explain_divergence = row_family.explain_divergence


def training_batches(
    task: Task, data: ReviewData, start_step: int = 0, *, host: Host = 0, num_hosts: int = 1
) -> Iterator[Batch]:
    return row_family.shuffled(_batch, task, data, start_step, host=host, num_hosts=num_hosts)


def evaluation_batches(task: Task, data: ReviewData, split: SplitName) -> Iterator[Batch]:
    return row_family.in_order(_batch, task, getattr(data, split))


def score(task: Task, outputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return metrics.cross_entropy_and_hits(outputs, targets)


def write_outputs(
    folder: Path,
    task: Task,
    data: ReviewData,
    split: SplitName,
    evaluation: Evaluation,
    history: list[dict[str, Any]],
    predict: Predict,
) -> dict[str, Any]:
    """predictions.csv, misclassified.txt and plots/."""
    assert evaluation.outputs is not None
    rows, names = getattr(data, split), data.class_names
    predictions = evaluation.outputs.argmax(axis=-1)
    probabilities = np.exp(metrics.log_softmax(evaluation.outputs))
    confidences = probabilities.max(axis=-1)
    write_predictions(folder / "predictions.csv", names, rows.labels, predictions, confidences)
    _write_misclassified(folder / "misclassified.txt", rows, names, predictions, confidences)
    drawn = folder / "plots"
    drawn.mkdir(exist_ok=True)
    title = f"{task.name} on {data.source}"
    if history:
        plots.plot_curves(history, drawn / "curves.png", title=title)
    plots.plot_confusion_matrix(
        rows.labels, predictions, names, drawn / "confusion_matrix.png", title=title
    )
    positive = probabilities[:, 1]
    review_plots.plot_roc(positive, rows.labels, drawn / "roc.png", title=title)
    review_plots.plot_sentiment_distribution(
        positive, rows.labels, names, drawn / "sentiment_distribution.png", title=title
    )
    by_class = metrics.precision_recall_f1(predictions, rows.labels, len(names))
    return {
        **{f"macro_{name}": metrics.macro_average(values) for name, values in by_class.items()},
        **{name: dict(zip(names, values, strict=True)) for name, values in by_class.items()},
        "area_under_roc": metrics.area_under_roc(positive, rows.labels),
        **summarise(predictions, rows.labels, names),
        "test_reviews_seen_in_training": data.duplicates,
    }


def _batch(split: TokenSplit, rows: np.ndarray) -> Batch:
    """tokens: (B, T) int32 padded at the end; lengths, label: (B,) int32."""
    return {
        "tokens": split.tokens[rows],
        "lengths": split.lengths[rows],
        "label": split.labels[rows],
    }


def _write_misclassified(
    path: Path,
    split: TokenSplit,
    names: tuple[str, ...],
    predictions: np.ndarray,
    confidences: np.ndarray,
) -> None:
    """The reviews that were classified wrongly with the most confidence, as they were written."""
    wrong = np.flatnonzero(predictions != split.labels)
    wrong = wrong[np.argsort(-confidences[wrong], kind="stable")]
    with replaced(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(f"{len(wrong):,} of {len(split):,} reviews are misclassified; the surest:\n")
        for row in wrong[:_WORST]:
            file.write(
                f"\n# review {row}: {names[split.labels[row]]}, taken for "
                f"{names[predictions[row]]} with {confidences[row]:.1%}\n{split.texts[row]}\n"
            )
