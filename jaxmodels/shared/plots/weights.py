"""Weights and gradients as histograms, a row a layer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxmodels.shared.plots.figures import BLUE, MUTED, VERMILION, dress, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROWS = 8  # of a figure that a page holds


def plot_gradients(
    weights: Mapping[str, np.ndarray],
    gradients: Mapping[str, np.ndarray],
    from_zero: Mapping[str, np.ndarray],
    path: Path,
    *,
    layers: Sequence[str],
    title: str,
) -> None:
    """Of up to eight kernels from the first layer to the last: the weights, their gradients, and
    the gradients where all weights are zero. `layers` gives their order.
    """
    owners = {name: name.rpartition(".")[0] for name in weights if weights[name].ndim > 1}
    kernels = sorted(owners, key=lambda name: layers.index(owners[name]))
    places = np.linspace(0, len(kernels) - 1, min(_ROWS, len(kernels))).round().astype(int)
    shown = [kernels[place] for place in places]
    figure = new_figure(9.0, 1.1 + 1.25 * len(shown), title)
    grid = figure.subplots(len(shown), 3, squeeze=False)
    columns: Sequence[tuple[str, Mapping[str, np.ndarray], str]] = (
        ("weights", weights, BLUE),
        ("gradients", gradients, VERMILION),
        ("gradients, weights at zero", from_zero, MUTED),
    )
    for row, name in enumerate(shown):
        for column, (label, values, colour) in enumerate(columns):
            axes = grid[row][column]
            _draw(axes, values[name].ravel(), colour)
            dress(axes, x_label="", y_label="")
            axes.set_yticks([])
            if row == 0:
                axes.set_title(label, fontsize=10)
        grid[row][0].set_ylabel(name.removesuffix(".weight"), fontsize=8, rotation=0, ha="right")
    save(figure, path)


def _draw(axes: "Axes", values: np.ndarray, colour: str) -> None:
    if not np.any(values):
        axes.text(0.5, 0.5, "all exactly 0", ha="center", va="center", transform=axes.transAxes)
        axes.set_xticks([])
        return
    axes.hist(values, bins=60, color=colour)
    axes.locator_params(axis="x", nbins=4)
    axes.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3))
