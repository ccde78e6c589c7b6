"""Figures of an adaptive filter beside the Wiener solution.

>>> plot_weights(weights, wiener, "run/plots/weights.png", title="lms, rate 0.01")
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.shared.plots.figures import (
    BLUE,
    INK,
    MUTED,
    RULE,
    VERMILION,
    dress,
    new_figure,
    save,
)


def plot_error(
    history: Sequence[dict],
    path: Path,
    *,
    title: str,
    samples_per_epoch: int,
    wiener_error: float,
) -> None:
    """The squared error by samples seen, as the filter went and on samples that it never sees."""
    figure = new_figure(8.0, 4.6, f"{title}: mean squared error by samples seen")
    axes = figure.subplots()
    seen = [row["epoch"] * samples_per_epoch for row in history]
    axes.plot(
        seen, [row["train_squared_error"] for row in history], color=BLUE, linewidth=1.2,
        label=f"before each update, mean of {samples_per_epoch} samples",
    )  # fmt: skip
    held_out = [row["validation_squared_error"] for row in history]
    axes.plot(seen, held_out, color=VERMILION, linewidth=1.8, label="on other samples")
    axes.axhline(
        wiener_error, color=INK, linewidth=1.2, linestyle="--",
        label=f"Wiener solution on those, {wiener_error:.4f}",
    )  # fmt: skip
    axes.set_yscale("log")
    dress(axes, x_label="samples", y_label="mean squared error")
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.legend(frameon=False)
    save(figure, path)


def plot_weights(weights: np.ndarray, wiener: np.ndarray, path: Path, *, title: str) -> None:
    """weights, wiener: (F + 1,), the offset last -> two bars each."""
    figure = new_figure(7.0, 4.0, f"{title}: the filter's weights and the Wiener solution's")
    axes = figure.subplots()
    places = np.arange(len(weights))
    for shift, values, colour, name in (
        (-0.2, weights, BLUE, "LMS"),
        (0.2, wiener, VERMILION, "Wiener"),
    ):
        bars = axes.bar(places + shift, values, width=0.36, color=colour, label=name)
        axes.bar_label(bars, [f"{value:.4g}" for value in values], padding=2, fontsize=9)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set_xticks(places, [*(f"w{place + 1}" for place in places[:-1]), "offset"])
    axes.margins(y=0.15)
    dress(axes, x_label="", y_label="weight")
    axes.legend(frameon=False)
    save(figure, path)


def plot_planes(
    inputs: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    wiener: np.ndarray,
    path: Path,
    *,
    title: str,
) -> None:
    """inputs (N, 2), targets (N,) as dots, and the planes of both solutions (3,) each."""
    from matplotlib.patches import Patch

    figure = new_figure(7.5, 6.6, f"{title}: samples, and the planes of LMS and Wiener")
    axes: Any = figure.add_subplot(projection="3d")
    axes.scatter(*inputs.T, targets, s=6, color=MUTED, alpha=0.5)
    sides = [np.linspace(values.min(), values.max(), 8) for values in inputs.T]
    first, second = np.meshgrid(*sides)
    for solution, colour in ((weights, BLUE), (wiener, VERMILION)):
        plane = solution[0] * first + solution[1] * second + solution[2]
        axes.plot_wireframe(first, second, plane, color=colour, linewidth=1.0, alpha=0.85)
    axes.set_xlabel("x1", color=INK)
    axes.set_ylabel("x2", color=INK)
    axes.set_zlabel("d", color=INK)
    axes.legend(
        handles=[Patch(color=BLUE, label="LMS"), Patch(color=VERMILION, label="Wiener")],
        frameon=False,
        loc="upper left",
    )
    axes.view_init(elev=22, azim=-115)  # along neither plane
    save(figure, path)
