"""Figures of house prices: what the data look like, and how far the predictions are off.

>>> plot_predictions(prices, predicted, "run/plots/predictions.png", title="houses-ridge")
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxmodels.shared.data.house_columns import NUMERIC
from jaxmodels.shared.data.house_features import Preparation, skewness
from jaxmodels.shared.data.house_tables import HouseTable
from jaxmodels.shared.plots.figures import (
    BLUE,
    MUTED,
    RULE,
    VERMILION,
    dress,
    new_figure,
    save,
    save_note,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHOWN = 20  # bars at most


def plot_prices(table: HouseTable, path: Path, *, title: str) -> None:
    """The distribution of the prices, and of their logs, in which it is nearly normal."""
    assert table.prices is not None
    figure = new_figure(10.0, 4.2, f"{title}: prices of the training split")
    logs = np.log(table.prices)
    for axes, values, label in zip(
        figure.subplots(1, 2),
        (table.prices / 1000, logs),
        ("price (thousand dollars)", "log of the price in dollars"),
        strict=True,
    ):
        axes.hist(values, bins=40, color=BLUE)
        axes.axvline(values.mean(), color=VERMILION, linewidth=1.4, linestyle="--", label="mean")
        dress(axes, x_label=f"{label}; skew {skewness(values):.2f}", y_label="houses")
        axes.legend(frameon=False)
    save(figure, path)


def plot_correlations(table: HouseTable, path: Path, *, title: str) -> None:
    """The numeric columns that go most with the log of the price."""
    assert table.prices is not None
    logs = np.log(table.prices)
    found = {}
    for name in NUMERIC:
        known = ~np.isnan(table.numbers[name])
        values = table.numbers[name][known]
        if len(values) > 1 and values.std() > 0 and logs[known].std() > 0:
            found[name] = float(np.corrcoef(values, logs[known])[0, 1])
    _bars(
        found,
        path,
        title=f"{title}: correlation with the log of the price",
        label="Pearson's correlation, where the value is known",
        when_empty="no column varies",
    )


def plot_missing(table: HouseTable, path: Path, *, title: str) -> None:
    """How many values of each column nobody wrote down; "none" is not missing."""
    _bars(
        {name: float(count) for name, count in table.missing().items()},
        path,
        title=f"{title}: missing values of {len(table):,} training houses",
        label="missing values (an NA that means none is not one)",
        when_empty="no value is missing",
    )


def plot_skew(table: HouseTable, preparation: Preparation, path: Path, *, title: str) -> None:
    """The skew of the columns that were logged, before and after."""
    before, after = {}, {}
    for name in preparation.logged:
        values = table.numbers[name]
        known = values[~np.isnan(values)]
        before[name], after[name] = skewness(known), skewness(np.log1p(known))
    names = sorted(before, key=lambda name: -abs(before[name]))[:_SHOWN]
    if not names:
        save_note("no column is skewed beyond the limit", path, title=title)
        return
    figure = new_figure(8.0, 1.6 + 0.28 * len(names), f"{title}: skew before and after log(1 + x)")
    axes = figure.subplots()
    places = np.arange(len(names))
    for place, name in zip(places, names, strict=True):
        axes.plot([before[name], after[name]], [place, place], color=RULE, linewidth=2, zorder=1)
    axes.plot([before[n] for n in names], places, "s", color=VERMILION, label="as it is")
    axes.plot([after[n] for n in names], places, "o", color=BLUE, label="log(1 + x)")
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_yticks(places, names, fontsize=9)
    axes.set_ylim(len(names) - 0.4, -0.6)
    dress(axes, x_label="skew (third standardised moment)", y_label="")
    axes.legend(frameon=False)
    save(figure, path)


def plot_predictions(prices: np.ndarray, predicted: np.ndarray, path: Path, *, title: str) -> None:
    """prices, predicted: (N,) dollars -> a dot a house, on the diagonal where they agree."""
    figure = new_figure(6.5, 6.2, f"{title}: predictions against prices")
    axes = figure.subplots()
    ends = [min(prices.min(), predicted.min()) / 1100, max(prices.max(), predicted.max()) / 900]
    axes.plot(ends, ends, color=VERMILION, linewidth=1.4, linestyle="--", label="predicted = price")
    axes.plot(prices / 1000, predicted / 1000, "o", color=BLUE, markersize=4, alpha=0.55)
    dress(axes, x_label="price (thousand dollars)", y_label="predicted (thousand dollars)")
    axes.set_xscale("log")
    axes.set_yscale("log")
    _plain_ticks(axes, ends)
    axes.legend(frameon=False, loc="upper left")
    save(figure, path)


def plot_residuals(prices: np.ndarray, predicted: np.ndarray, path: Path, *, title: str) -> None:
    """prices, predicted: (N,) dollars -> log errors by predicted price, and their distribution."""
    errors = np.log(predicted / prices)
    figure = new_figure(10.0, 4.4, f"{title}: log of predicted over price")
    left, right = figure.subplots(1, 2, width_ratios=[2, 1], sharey=True)
    left.plot(predicted / 1000, errors, "o", color=BLUE, markersize=4, alpha=0.55)
    left.axhline(0, color=VERMILION, linewidth=1.4, linestyle="--")
    left.set_xscale("log")
    _plain_ticks(left, [predicted.min() / 1000, predicted.max() / 1000], y=False)
    dress(left, x_label="predicted (thousand dollars)", y_label="residual of the log price")
    right.hist(errors, bins=40, orientation="horizontal", color=BLUE)
    right.axhline(0, color=VERMILION, linewidth=1.4, linestyle="--")
    dress(right, x_label=f"houses; RMSE {np.sqrt((errors**2).mean()):.4f}", y_label="")
    save(figure, path)


def _plain_ticks(axes: "Axes", ends: list[float], *, y: bool = True) -> None:
    """Round thousands on logarithmic axes, in place of powers of ten."""
    from matplotlib.ticker import NullLocator

    ticks = [tick for tick in (25, 50, 100, 200, 400, 800, 1600) if ends[0] <= tick <= ends[1]]
    for axis in (axes.xaxis, axes.yaxis) if y else (axes.xaxis,):
        axis.set_ticks(ticks, [f"{tick:,}" for tick in ticks])
        axis.set_minor_locator(NullLocator())


def _bars(values: dict[str, float], path: Path, *, title: str, label: str, when_empty: str) -> None:
    """The largest by amount, with their names; the first on top."""
    names = sorted(values, key=lambda name: -abs(values[name]))[:_SHOWN]
    if not names:
        save_note(when_empty, path, title=title)
        return
    figure = new_figure(8.0, 1.6 + 0.28 * len(names), title)
    axes = figure.subplots()
    places = np.arange(len(names))
    colours = [BLUE if values[name] >= 0 else VERMILION for name in names]
    axes.barh(places, [values[name] for name in names], color=colours)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_yticks(places, names, fontsize=9)
    axes.set_ylim(len(names) - 0.4, -0.6)
    dress(axes, x_label=label, y_label="")
    axes.grid(axis="x", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    save(figure, path)
