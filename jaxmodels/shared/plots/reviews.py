"""Figures of a sentiment run: the ROC curve, and what probability each class was given.

Every function writes one PNG, titled `title` and what it shows; `plots.py` has the figures that
every classifier shares.

    plot_roc(probabilities[:, 1], labels, "run/roc.png", title="imdb-lstm, Flax")
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxmodels.shared.metrics import area_under_roc, roc_curve
from jaxmodels.shared.plots.figures import (
    BLUE,
    INK,
    MUTED,
    RULE,
    SERIES,
    dress,
    new_figure,
    percent_axis,
    save,
    save_note,
    shorten,
)


def plot_roc(scores: np.ndarray, labels: np.ndarray, path: str | Path, *, title: str) -> None:
    """scores (N,), labels (N,) in {0, 1} -> the true positive rate over the false positive one."""
    title = f"{title}: ROC curve"
    curve, area = roc_curve(scores, labels), area_under_roc(scores, labels)
    if curve is None:
        save_note("undefined: of one class alone, or of scores that are NaN", path, title=title)
        return
    figure = new_figure(5.8, 5.6, title)
    axes = figure.subplots()
    axes.plot(*curve, color=BLUE, linewidth=2, label=f"area {area:.4f}, {len(labels):,} examples")
    axes.plot([0, 1], [0, 1], "--", color=MUTED, linewidth=1.2, label="chance, area 0.5")
    dress(axes, x_label="false positive rate", y_label="true positive rate")
    axes.set_aspect("equal")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.grid(color=RULE, linewidth=0.8)
    for axis in ("x", "y"):
        percent_axis(axes, axis)
    axes.legend(frameon=False, labelcolor=INK, loc="lower right")
    save(figure, path)


def plot_sentiment_distribution(
    probabilities: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    path: str | Path,
    *,
    title: str,
) -> None:
    """The probabilities (N,) of class 1, a histogram for each of the two true classes.

    Bars are shares of their own class, so that classes of unequal size compare.
    """
    figure = new_figure(8.0, 4.4, f"{title}: predicted probability by true class")
    axes = figure.subplots()
    bins = np.linspace(0, 1, 41)
    for number, (colour, _) in enumerate(SERIES[:2]):
        own = probabilities[labels == number]
        counts = np.histogram(own, bins)[0]
        shares = counts / max(len(own), 1)
        name = f"truly {shorten(class_names[number])} ({len(own):,})"
        axes.stairs(shares, bins, fill=True, color=colour, alpha=0.3)
        axes.stairs(shares, bins, color=colour, linewidth=1.8, label=name)
    axes.axvline(0.5, color=MUTED, linewidth=1.2, linestyle="--", label="decision")
    positive = shorten(class_names[1])
    dress(axes, x_label=f"predicted probability of {positive}", y_label="share of the true class")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, None)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    for axis in ("x", "y"):
        percent_axis(axes, axis)
    # Above the axes: a model that has learnt piles its bars up at both ends.
    figure.legend(frameon=False, labelcolor=INK, loc="outside lower center", ncols=3)
    save(figure, path)
