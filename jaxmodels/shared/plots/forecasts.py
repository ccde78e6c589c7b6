"""Figures of a forecaster: forecasts against what came, errors by horizon and span, residuals.

Every function writes one PNG, titled `title` and what it shows. Rows are those of
`backtest.backtest`; methods that are no baseline, the models, are drawn thick.

    plot_error_by_horizon(rows, "run/error_by_horizon.png", title="AAPL, LSTM in Flax")
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxmodels.shared.forecasting.backtest import REFERENCE
from jaxmodels.shared.forecasting.baselines import BASELINES
from jaxmodels.shared.plots.figures import (
    BLUE,
    INK,
    MUTED,
    RULE,
    SERIES,
    VERMILION,
    dress,
    new_figure,
    save,
    shorten,
)
from jaxmodels.shared.targets import median_index

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = dict[str, Any]

MODEL_COLOURS = (VERMILION, "#4b2e83", INK)  # none of `SERIES`, which the baselines have

# What is worse than this by skill, half as much error again as the random walk's, is put on the
# axes' edge: the seasonal naive rule, three times off, would press all others into one line.
WORST_SKILL = -0.5


def plot_forecasts(
    dates: np.ndarray,
    actual: np.ndarray,
    forecasts: np.ndarray,
    quantiles: tuple[float, ...],
    path: str | Path,
    *,
    title: str,
    horizon: int,
) -> None:
    """One ticker at one horizon: the prices that came, the median forecast and the outer quantiles.

    dates (N,) datetime64[D] and actual (N,) are of the days that were forecast, in order; forecasts
    (N, Q) are prices, as `SeriesData.to_prices` gives them for that horizon.
    """
    figure = new_figure(10.0, 4.6, f"{title}: forecasts {_rows_ahead(horizon)}")
    axes = figure.subplots()
    lower, upper = forecasts[:, 0], forecasts[:, -1]
    inside = ((lower <= actual) & (actual <= upper)).mean()
    band = f"{100 * quantiles[0]:g}% to {100 * quantiles[-1]:g}% band, holds {100 * inside:.0f}%"
    median = forecasts[:, median_index(quantiles)]
    axes.fill_between(dates, lower, upper, color=BLUE, alpha=0.2, linewidth=0, label=band)
    dots = {"marker": "o", "markersize": 4 if len(dates) <= 15 else 0}  # one day has no line
    axes.plot(dates, actual, color=INK, linewidth=1.1, label="actual", **dots)
    axes.plot(dates, median, color=VERMILION, linewidth=1.3, label="forecast (median)", **dots)
    dress(axes, x_label="", y_label="price")
    _date_axis(axes)
    axes.margins(x=0.01)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    figure.legend(frameon=False, labelcolor=INK, loc="outside lower center", ncols=3)
    save(figure, path)


def plot_error_by_horizon(rows: Sequence[Row], path: str | Path, *, title: str) -> None:
    """A line a method: its MAE over the random walk's, over all spans, as the mean over tickers."""
    rows = _over_all_spans(rows)
    horizons = sorted({row["horizon"] for row in rows})
    figure = new_figure(9.0, 4.8, f"{title}: error by horizon")
    axes = figure.subplots()
    for method, (colour, mark, width) in _styles(rows).items():
        own = [row for row in rows if row["method"] == method]
        ratios = [1 - _mean(own, "skill", horizon=horizon) for horizon in horizons]
        worst = np.fmax.reduce(ratios)  # of those that are defined
        name = shorten(method, 24) + (f" (up to {worst:.1f})" if worst > 1 - WORST_SKILL else "")
        axes.plot(
            range(len(horizons)), np.minimum(ratios, 1 - WORST_SKILL), color=colour, marker=mark,
            linewidth=width, markersize=3 + 1.5 * width, label=name,
        )  # fmt: skip
    axes.axhline(1, color=MUTED, linewidth=1.2, linestyle="--", label=REFERENCE)
    dress(axes, x_label="horizon (rows ahead)", y_label=f"MAE relative to the {REFERENCE}")
    # Evenly spaced, since horizons such as 1, 5, 20 and 60 crowd at one end of a true scale.
    axes.set_xticks(range(len(horizons)), [str(horizon) for horizon in horizons])
    axes.margins(x=0.06, y=0.08)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    figure.legend(frameon=False, labelcolor=INK, loc="outside right center")
    save(figure, path)


def plot_backtest(
    rows: Sequence[Row],
    path: str | Path,
    *,
    title: str,
    quantity: Literal["skill", "mae"] = "skill",
) -> None:
    """A panel a horizon, a line a method, a dot a span and a ring for all spans together.

    Where tickers share a span, its dot is their mean; where their calendars differ, each has spans
    of its own, and is better drawn alone.
    """
    horizons = sorted({row["horizon"] for row in rows})
    methods = [m for m in dict.fromkeys(row["method"] for row in rows) if m != REFERENCE]
    if quantity == "mae":
        methods.insert(0, REFERENCE)
    spans = [span for span in dict.fromkeys(row["span"] for row in rows) if span != "all"]
    what = f"skill against the {REFERENCE}" if quantity == "skill" else "mean absolute error"
    width = min(2.2 + 3.0 * len(horizons), 16.0)
    height = 2.2 + 0.34 * len(methods) + 0.2 * len(spans)
    figure = new_figure(width, height, f"{title}: {what}")
    panels = figure.subplots(1, len(horizons), sharey=True, squeeze=False)[0]
    for axes, horizon in zip(panels, horizons, strict=True):
        here = [row for row in rows if row["horizon"] == horizon]
        _draw_spans(axes, here, methods, spans, quantity)
        dress(axes, x_label=_label(here, quantity), y_label="")
        axes.set_title(_rows_ahead(horizon), fontsize=10, color=INK)
    names = [shorten(method, 24) for method in methods]
    panels[0].set_yticks(range(len(methods)), names)
    panels[0].set_ylim(len(methods) - 0.5, -0.5)  # the first method on top
    for label, method in zip(panels[0].get_yticklabels(), methods, strict=True):
        label.set_fontweight("normal" if method in BASELINES else "bold")
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        frameon=False, labelcolor=INK, loc="outside lower center", ncols=2,
    )  # fmt: skip
    save(figure, path)


def plot_residuals(
    dates: np.ndarray, residuals: np.ndarray, path: str | Path, *, title: str, horizon: int
) -> None:
    """dates (N,), residuals (N,), actual less forecast -> over time, and their histogram."""
    figure = new_figure(10.0, 4.2, f"{title}: residuals {_rows_ahead(horizon)}")
    over_time, histogram = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    over_time.plot(dates, residuals, ".", color=BLUE, markersize=4, alpha=0.7)
    dress(over_time, x_label="", y_label="actual less forecast")
    _date_axis(over_time)
    over_time.margins(x=0.01)
    histogram.hist(residuals, bins="auto", orientation="horizontal", color=BLUE, alpha=0.45)
    dress(histogram, x_label="forecasts", y_label="")
    histogram.locator_params(axis="x", integer=True, nbins=4)
    mean, deviation = residuals.mean(), residuals.std(ddof=0)
    for axes in (over_time, histogram):
        axes.axhline(0, color=INK, linewidth=1.0)
        line = axes.axhline(mean, color=VERMILION, linewidth=1.3, linestyle="--")
        axes.grid(axis="y", color=RULE, linewidth=0.8)
        axes.set_axisbelow(True)
    line.set_label(f"mean {mean:.3g}, standard deviation {deviation:.3g}")
    figure.legend(frameon=False, labelcolor=INK, loc="outside lower center")
    save(figure, path)


def _draw_spans(
    axes: "Axes", rows: Sequence[Row], methods: list[str], spans: list[str], quantity: str
) -> None:
    """The dots of one horizon. The spans of a method stand a little below one another, in order."""

    def values(span: str) -> np.ndarray:
        means = [_mean(rows, quantity, method=method, span=span) for method in methods]
        return np.maximum(means, WORST_SKILL if quantity == "skill" else 0)

    for number, span in enumerate(spans):
        colour, mark = SERIES[number % len(SERIES)]
        shift = 0.4 * ((number + 1) / (len(spans) + 1) - 0.5)
        axes.plot(
            values(span), np.arange(len(methods)) + shift, linestyle="", marker=mark, color=colour,
            markersize=5, label=span,
        )  # fmt: skip
    if np.isfinite(values("all")).any():
        axes.plot(
            values("all"), range(len(methods)), linestyle="", marker="o", markersize=11,
            markerfacecolor="none", markeredgecolor=INK, label="all spans",
        )  # fmt: skip
    if quantity == "skill":
        axes.axvline(0, color=MUTED, linewidth=1.2, linestyle="--", label=REFERENCE)
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, -0.05), max(high, 0.05))  # where all are the same, or undefined
    else:
        axes.set_xlim(0, None)
    axes.grid(axis="both", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.locator_params(axis="x", nbins=5)


def _label(rows: Sequence[Row], quantity: str) -> str:
    if quantity == "mae":
        return "MAE (price)"
    off = any(row["skill"] is not None and row["skill"] < WORST_SKILL for row in rows)
    return f"skill (worse than {WORST_SKILL} at the edge)" if off else "skill"


def _styles(rows: Sequence[Row]) -> dict[str, tuple[str, str, float]]:
    """A colour, a mark and a line width for each method but the random walk."""
    methods = [m for m in dict.fromkeys(row["method"] for row in rows) if m != REFERENCE]
    models = [method for method in methods if method not in BASELINES]
    styles = {}
    for number, method in enumerate(method for method in methods if method in BASELINES):
        styles[method] = *SERIES[number % len(SERIES)], 1.2
    for number, method in enumerate(models):
        colour, mark = MODEL_COLOURS[number % len(MODEL_COLOURS)], SERIES[number % len(SERIES)][1]
        styles[method] = colour, mark, 2.4
    return styles


def _over_all_spans(rows: Sequence[Row]) -> list[Row]:
    """A backtest of one span has no rows of "all"."""
    return [row for row in rows if row["span"] == "all"] or list(rows)


def _mean(rows: Sequence[Row], quantity: str, **wanted: object) -> float:
    """The mean over the rows (tickers) that have the wanted values; NaN if it is not defined."""
    chosen = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    values = [row[quantity] for row in chosen if row[quantity] is not None]
    return float(np.mean(values)) if values else float("nan")


def _rows_ahead(horizon: int) -> str:
    return f"{horizon} row{'s' if horizon > 1 else ''} ahead"


def _date_axis(axes: "Axes") -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3, maxticks=8)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
