"""Figures of a run: learning curves, confusion matrix, accuracy by class, predictions, errors.

Every function writes one PNG, titled `title` and what it shows. Right and wrong differ by a mark
besides their colour.

    plot_curves(history, "run/curves.png", title="cifar10-resnet20, Flax")
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxmodels.shared.plots.figures import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    RED,
    RULE,
    VERMILION,
    dress,
    new_figure,
    percent_axis,
    save,
    save_note,
    shorten,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GRID_ROWS, GRID_COLUMNS = 4, 6

# Above this many classes a confusion matrix cannot hold readable numbers.
MAX_ANNOTATED_CLASSES = 20


def plot_curves(
    history: Sequence[dict],
    path: str | Path,
    *,
    title: str,
    loss_unit: str = " (nats)",
    metric: str = "accuracy",
) -> None:
    """Loss and metric by epoch, side by side; validation where the history has it."""
    shown = metric.replace("_", " ")
    figure = new_figure(10.0, 4.2, f"{title}: loss and {shown} by epoch")
    loss_axes, metric_axes = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    for axes, quantity, unit in ((loss_axes, "loss", loss_unit), (metric_axes, metric, "")):
        for part, colour, line, marker in (
            ("train", BLUE, "-", "o"),
            ("validation", VERMILION, "--", "s"),
        ):
            values = _column(history, f"{part}_{quantity}")
            if np.isfinite(values).any():
                axes.plot(
                    epochs, values, line, color=colour, linewidth=1.8, label=part,
                    # A dot an epoch helps short runs (one epoch has no line at all) and hides
                    # the line of long ones.
                    marker=marker, markersize=5 if len(epochs) <= 15 else 0,
                )  # fmt: skip
        dress(axes, x_label="epoch", y_label=f"{quantity.replace('_', ' ')}{unit}")
        axes.grid(axis="y", color=RULE, linewidth=0.8)
        axes.locator_params(axis="x", integer=True)
        axes.margins(x=0.04, y=0.08)
        if len(epochs) == 1:  # automatic limits would print fractions of an epoch and of a percent
            axes.set_xticks(epochs)
            axes.set_ylim(0, 1 if quantity == "accuracy" else None)
    if metric == "accuracy":
        percent_axis(metric_axes, "y")
        _mark_best_validation(metric_axes, epochs, _column(history, "validation_accuracy"))
    for axes in (loss_axes, metric_axes):
        if axes.lines:
            axes.legend(frameon=False, labelcolor=INK)
    save(figure, path)


def plot_confusion_matrix(
    labels: np.ndarray,
    predictions: np.ndarray,
    class_names: Sequence[str],
    path: str | Path,
    *,
    title: str,
) -> None:
    """labels, predictions: (N,) int -> rows are true classes, in percent of that class.

    A class without examples has an empty row.
    """
    num_classes = len(class_names)
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(counts, (np.asarray(labels), np.asarray(predictions)), 1)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)

    side = float(np.clip(2.4 + 0.52 * num_classes, 5.0, 13.0))
    figure = new_figure(side + 1.2, side, f"{title}\nconfusion matrix, % of each true class")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=MUTED, labelsize=8, length=0)
    bar.set_label("share of the true class", color=INK)
    percent_axis(bar.ax, "y")

    dress(axes, x_label="predicted class", y_label="true class")
    font_size = 9 if num_classes <= MAX_ANNOTATED_CLASSES else 5.5
    names = [shorten(name) for name in class_names]
    axes.set_xticks(range(num_classes), names, rotation=90, fontsize=font_size)
    axes.set_yticks(range(num_classes), names, fontsize=font_size)
    axes.spines[:].set_visible(False)
    if num_classes <= MAX_ANNOTATED_CLASSES:
        for row, column in np.argwhere(counts > 0):
            share = shares[row, column]
            axes.text(
                column, row, f"{100 * share:.0f}" if share >= 0.005 else "<1",
                ha="center", va="center", fontsize=8.5, color="white" if share > 0.5 else INK,
            )  # fmt: skip
    save(figure, path)


def plot_per_class_accuracy(
    labels: np.ndarray,
    predictions: np.ndarray,
    class_names: Sequence[str],
    path: str | Path,
    *,
    title: str,
) -> None:
    """labels, predictions: (N,) int -> a dot a class, best first, with its 95% Wilson interval."""
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    right = labels == predictions
    totals = np.bincount(labels, minlength=len(class_names))
    hits = np.bincount(labels[right], minlength=len(class_names))
    accuracy = np.divide(hits, totals, out=np.full(len(totals), -1.0), where=totals > 0)
    order = np.argsort(-accuracy, kind="stable")  # classes without examples come last

    crowded = len(class_names) > 30
    figure = new_figure(
        7.5, 1.8 + (0.17 if crowded else 0.34) * len(class_names), f"{title}: accuracy by class"
    )
    axes = figure.subplots()
    for position, index in enumerate(order):
        if totals[index] == 0:
            axes.text(0.01, position, "no examples", color=MUTED, fontsize=8, va="center")
            continue
        low, high = wilson_interval(int(hits[index]), int(totals[index]))
        axes.plot([low, high], [position, position], color=BLUE, linewidth=2.2, alpha=0.45)
        axes.plot(accuracy[index], position, "o", color=BLUE, markersize=4 if crowded else 6)
    if len(labels):
        overall = right.mean()
        axes.axvline(
            overall, color=VERMILION, linewidth=1.4, linestyle="--",
            label=f"overall {100 * overall:.1f}% of {len(labels):,}",
        )  # fmt: skip
        axes.legend(
            frameon=False, labelcolor=INK, loc="lower right", bbox_to_anchor=(1, 1), borderpad=0
        )
    dress(axes, x_label="accuracy, with the 95% Wilson interval", y_label="")
    names = [f"{shorten(class_names[int(i)])} ({totals[i]:,})" for i in order]
    axes.set_yticks(range(len(names)), names, fontsize=6.5 if crowded else 9)
    axes.set_ylim(len(names) - 0.4, -0.6)  # the first class on top
    axes.set_xlim(0, 1.01)
    axes.grid(axis="x", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    percent_axis(axes, "x")
    save(figure, path)


def plot_sample_predictions(
    images: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    confidences: np.ndarray,
    class_names: Sequence[str],
    path: str | Path,
    *,
    title: str,
) -> None:
    """images: (N, H, W, C) uint8, the rest (N,) -> the first 24 with what was predicted."""
    captions = []
    shown = range(min(len(images), GRID_ROWS * GRID_COLUMNS))
    for i in shown:
        predicted = f"{shorten(class_names[int(predictions[i])])} {_percent(float(confidences[i]))}"
        if predictions[i] == labels[i]:
            captions.append((f"✓ {predicted}", GREEN))
        else:
            true = shorten(class_names[int(labels[i])])
            captions.append((f"✗ {predicted}\ntrue: {true}", RED))
    _image_grid(
        [images[i] for i in shown],
        captions,
        path,
        title=f"{title}: predictions and their confidence",
        when_empty="no images",
    )


def plot_worst_misclassifications(
    images: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    confidences: np.ndarray,
    class_names: Sequence[str],
    path: str | Path,
    *,
    title: str,
) -> None:
    """images: (N, H, W, C) uint8, the rest (N,) -> the 24 errors of the highest confidence."""
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    wrong = np.flatnonzero(labels != predictions)
    by_confidence = np.argsort(-np.asarray(confidences)[wrong], kind="stable")
    worst = wrong[by_confidence][: GRID_ROWS * GRID_COLUMNS]
    captions = []
    for i in worst:
        predicted = shorten(class_names[int(predictions[i])])
        true = shorten(class_names[int(labels[i])])
        captions.append((f"{predicted} ({_percent(float(confidences[i]))})\n/ {true}", INK))
    shown = f"the surest errors ({len(worst)} of {len(wrong):,})"
    _image_grid(
        [images[i] for i in worst], captions, path,
        title=f"{title}: {shown}\npredicted (confidence) / true",
        when_empty=f"no misclassification among {len(labels):,} images",
    )  # fmt: skip


def wilson_interval(hits: int, total: int) -> tuple[float, float]:
    """The 95% score interval of a proportion (Wilson 1927): it stays in [0, 1], also at 0 and 1."""
    z = 1.959963984540054
    share = hits / total
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def _image_grid(
    images: Sequence[np.ndarray],
    captions: Sequence[tuple[str, str]],
    path: str | Path,
    *,
    title: str,
    when_empty: str,
) -> None:
    """images: (H, W, C) uint8 each, C 1 or 3; a caption is (text, colour)."""
    if not images:
        save_note(when_empty, path, title=title.split("\n")[0])
        return
    rows = -(-len(images) // GRID_COLUMNS)
    figure = new_figure(10.5, 0.9 + 2.15 * rows, title)
    grid = figure.subplots(rows, GRID_COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, image, (text, colour) in zip(grid.flat, images, captions, strict=False):
        image = image[..., 0] if image.shape[-1] == 1 else image
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        # The second line is left empty where there is none, so that the images stand in rows.
        axes.set_title(text if "\n" in text else f"{text}\n", fontsize=9, color=colour, pad=4)
    save(figure, path)


def _mark_best_validation(axes: "Axes", epochs: list[int], accuracy: np.ndarray) -> None:
    """A ring around the best epoch, with its figure in the legend."""
    if not np.isfinite(accuracy).any():
        return
    best = int(np.nanargmax(accuracy))
    axes.plot(
        epochs[best], accuracy[best], "o", markersize=11, markerfacecolor="none",
        markeredgecolor=VERMILION, label=f"best {100 * accuracy[best]:.1f}%, epoch {epochs[best]}",
    )  # fmt: skip


def _column(history: Sequence[dict], name: str) -> np.ndarray:
    """(epochs,) float64, NaN where the row has no value."""
    values = (row.get(name) for row in history)
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _percent(confidence: float) -> str:
    """Never 100% for a confidence below one: 99.96% is not certainty."""
    return f"{100 * confidence:.0f}%" if confidence < 0.995 or confidence >= 1 else ">99%"
