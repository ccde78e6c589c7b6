"""Forecasting: a window of features in, quantiles of the target at several horizons out."""

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.shared.data.batches import Batch
from jaxmodels.shared.data.counters import Host
from jaxmodels.shared.data.series import (
    Scaler,
    SeriesData,
    SeriesDataConfig,
    Windows,
    load_series,
)
from jaxmodels.shared.families import rows as row_family
from jaxmodels.shared.families.family import Evaluation, Predict, SplitName
from jaxmodels.shared.families.sizes import check_sizes
from jaxmodels.shared.files import read_json, replaced
from jaxmodels.shared.fine_tuning import fitted_folder
from jaxmodels.shared.forecasting.backtest import Forecaster, backtest, model_forecaster, room_for
from jaxmodels.shared.forecasting.baselines import BaselineConfig, check_installed, fewest_rows
from jaxmodels.shared.forecasting.metrics import quantile_losses
from jaxmodels.shared.forecasting.table import write_table
from jaxmodels.shared.plots import forecasts as forecast_plots
from jaxmodels.shared.plots import runs as plots
from jaxmodels.shared.plots.figures import shorten
from jaxmodels.shared.targets import median_index
from jaxmodels.shared.tasks import Task

UNIT = "windows"
INPUTS = ("inputs",)
TARGET = "label"
LOSS = "pinball"
METRIC = "absolute_error"  # of the median, in the scaler's unit
KEEP_OUTPUTS = True
MEASURED_BEFORE = False

SCALERS_FILE = "scalers.json"
_SCALERS = ("inputs", "targets")
_NAMED = 5  # tickers in a title
_BACKTESTS = ((3, 20), (1, 20), (1, 5))  # spans, origins in each


def load(source: str, task: Task, run: Path | None = None) -> SeriesData:
    config = task.data
    assert isinstance(config, SeriesDataConfig)
    fitted = fitted_folder(task, run)
    scalers = read_scalers(fitted) if fitted else None
    check_sizes(task, "data", num_features=len(config.features), num_horizons=len(config.horizons))
    if hasattr(task.model, "window"):
        check_sizes(task, "data", window=config.window)
    check_installed()  # before hours of training, after which the table would fail
    return load_series(source, config, scalers=scalers)


def fitted_files(data: SeriesData) -> dict[str, str]:
    scalers = zip(_SCALERS, (data.input_scaler, data.target_scaler), strict=True)
    content = {
        name: {"shift": scaler.shift.tolist(), "scale": scaler.scale.tolist()}
        for name, scaler in scalers
    }
    return {SCALERS_FILE: json.dumps(content, indent=2) + "\n"}


def read_scalers(run: Path) -> tuple[Scaler, Scaler]:
    """A run's scalers of inputs and of targets.

    Raises:
        ValueError: the file is missing or malformed.
    """
    path = run / SCALERS_FILE
    content: Any = read_json(path)
    try:
        inputs, targets = (
            Scaler(*(np.array(content[name][part], np.float64) for part in ("shift", "scale")))
            for name in _SCALERS
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is malformed ({error!r}); expected shift and scale of {' and '.join(_SCALERS)}"
            "; restore it from a copy"
        ) from None
    return inputs, targets


count = row_family.count
steps_per_epoch = row_family.steps_per_epoch
units_per_step = row_family.units_per_step
in_words = row_family.in_words
explain_divergence = row_family.explain_divergence


def training_batches(
    task: Task, data: SeriesData, start_step: int = 0, *, host: Host = 0, num_hosts: int = 1
) -> Iterator[Batch]:
    return row_family.shuffled(_batch, task, data, start_step, host=host, num_hosts=num_hosts)


def evaluation_batches(task: Task, data: SeriesData, split: SplitName) -> Iterator[Batch]:
    return row_family.in_order(_batch, task, getattr(data, split))


def score(task: Task, outputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    targets, quantiles = targets.astype(np.float64), _quantiles(task)
    losses = quantile_losses(targets, outputs, np.array(quantiles))  # (B, H, Q)
    errors = np.abs(targets - outputs[..., median_index(quantiles)])  # (B, H)
    return losses.mean(axis=(1, 2)), errors.mean(axis=1)


def write_outputs(
    folder: Path,
    task: Task,
    data: SeriesData,
    split: SplitName,
    evaluation: Evaluation,
    history: list[dict[str, Any]],
    predict: Predict,
) -> dict[str, Any]:
    """predictions.csv and plots/; of the test split also backtest.csv and table.md.

    The table sets the model beside every baseline, from the same origins.
    """
    assert evaluation.outputs is not None
    windows = getattr(data, split)
    prices = data.to_prices(evaluation.outputs, windows.origin_prices)  # (N, H, Q)
    actual = data.to_prices(windows.targets, windows.origin_prices)  # (N, H)
    _write_predictions(folder / "predictions.csv", task, data, windows, prices, actual)
    drawn = folder / "plots"
    drawn.mkdir(exist_ok=True)
    title = f"{task.name} on {_tickers(data)}"
    if history:
        path = drawn / "curves.png"
        plots.plot_curves(history, path, title=title, loss_unit=" (pinball)", metric=METRIC)
    _draw_forecasts(drawn, task, data, windows, prices, actual)
    if split != "test":
        return {}

    def outputs_of(inputs: np.ndarray) -> np.ndarray:
        return predict({"inputs": inputs}, None)[0]

    model = model_forecaster(outputs_of, data, _quantiles(task))
    baselines = _baselines(data, coverage=enclosed(_quantiles(task)))
    rows = _backtest(data, {task.name: model}, baselines)
    if not rows:
        return {"verdicts": ["the test span is too short for a backtest"]}
    forecast_plots.plot_error_by_horizon(rows, drawn / "error_by_horizon.png", title=title)
    forecast_plots.plot_backtest(rows, drawn / "backtest.png", title=title)
    verdicts = write_table(
        folder, rows, task.name, coverage=baselines.coverage, season=baselines.season
    )
    return {"backtest": [row for row in rows if row["span"] == "all"], "verdicts": verdicts}


def enclosed(quantiles: tuple[float, ...]) -> float:
    """The share of values that the outer quantiles enclose; of a median alone, the baselines'."""
    return quantiles[-1] - quantiles[0] or BaselineConfig.coverage


def _baselines(data: SeriesData, *, coverage: float) -> BaselineConfig:
    """With the season of the series, where every ticker has seen as many as smoothing one takes."""
    config = BaselineConfig(coverage=coverage)
    if data.prices.season is None:
        return config
    seasonal = replace(config, season=data.prices.season, seasonal_smoothing=True)
    seen = min(
        int(np.searchsorted(table.dates, data.test_start)) for table in data.prices.frames.values()
    )
    enough = fewest_rows("exponential smoothing", seasonal, data.config.horizons[-1]) <= seen
    return seasonal if enough else config


def _backtest(
    data: SeriesData, models: dict[str, Forecaster], baselines: BaselineConfig
) -> list[dict[str, Any]]:
    """Over as many spans as the test days have room for; none, if they have none at all."""
    for spans, origins in _BACKTESTS:
        if room_for(data.prices, data.config.horizons, data.test_start, spans) >= origins:
            return backtest(
                data.prices,
                data.config.horizons,
                price=data.config.price,
                config=baselines,
                models=models,
                spans=spans,
                origins_per_span=origins,
                test_start=data.test_start,
            )
    return []


def _batch(windows: Windows, rows: np.ndarray) -> Batch:
    """inputs: (B, T, F) float32; label: (B, H) float32, scaled."""
    return {"inputs": windows.inputs(rows), "label": windows.targets[rows]}


def _quantiles(task: Task) -> tuple[float, ...]:
    return task.model.quantiles  # type: ignore[union-attr]


def _write_predictions(
    path: Path,
    task: Task,
    data: SeriesData,
    windows: Windows,
    prices: np.ndarray,
    actual: np.ndarray,
) -> None:
    """One row an origin and horizon: the price that came, and the quantiles forecast for it."""
    with replaced(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        names = [f"quantile_{quantile:g}" for quantile in _quantiles(task)]
        writer.writerow(["ticker", "origin", "origin_price", "horizon", "actual", *names])
        for row, (day, ticker) in enumerate(zip(windows.dates, windows.tickers, strict=True)):
            for place, horizon in enumerate(data.config.horizons):
                values = [windows.origin_prices[row], actual[row, place], *prices[row, place]]
                origin, came, *quantiles = (f"{value:.6g}" for value in values)
                writer.writerow([data.tickers[ticker], day, origin, horizon, came, *quantiles])


def _draw_forecasts(
    folder: Path,
    task: Task,
    data: SeriesData,
    windows: Windows,
    prices: np.ndarray,
    actual: np.ndarray,
) -> None:
    """The forecasts of every ticker, and the residuals of all, at each horizon."""
    median = median_index(_quantiles(task))
    for place, horizon in enumerate(data.config.horizons):
        for number, ticker in enumerate(data.tickers):
            own = windows.tickers == number
            if own.any():
                days = _days_ahead(data, ticker, windows.dates[own], horizon)
                forecast_plots.plot_forecasts(
                    days,
                    actual[own, place],
                    prices[own, place],
                    _quantiles(task),
                    folder / f"forecast_{ticker}_{horizon}.png",
                    title=f"{task.name} on {ticker}",
                    horizon=horizon,
                )
        forecast_plots.plot_residuals(
            windows.dates,
            actual[:, place] - prices[:, place, median],
            folder / f"residuals_{horizon}.png",
            title=f"{task.name} on {_tickers(data)}",
            horizon=horizon,
        )


def _tickers(data: SeriesData) -> str:
    """For a title, where the source's own description is too long."""
    named = data.tickers if len(data.tickers) <= _NAMED else data.tickers[: _NAMED - 1]
    rest = len(data.tickers) - len(named)
    return shorten(", ".join(named), 40) + (f" and {rest} more" if rest else "")


def _days_ahead(data: SeriesData, ticker: str, dates: np.ndarray, horizon: int) -> np.ndarray:
    """The day `horizon` rows after each date: (N,)."""
    days = data.prices.frames[ticker].dates
    return days[np.searchsorted(days, dates) + horizon]
