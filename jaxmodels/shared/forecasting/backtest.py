"""Rolling-origin backtests: every method forecasts from the same days, and has seen only the past.

>>> rows = backtest(read_prices("sample"), (1, 5), spans=2, origins_per_span=10)
>>> rows[0]["method"], rows[0]["span"]
('random walk', '2007-07-17 to 2008-02-11')
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from jaxmodels.shared.data.price_sources import Prices
from jaxmodels.shared.data.price_tables import PriceTable
from jaxmodels.shared.data.series import SeriesData
from jaxmodels.shared.data.series_features import select_column
from jaxmodels.shared.forecasting import metrics
from jaxmodels.shared.forecasting.baselines import (
    BaselineConfig,
    Forecast,
    History,
    forecast_prices,
    installed_baselines,
)
from jaxmodels.shared.targets import median_index

REFERENCE = "random walk"
Forecaster = Callable[[History, tuple[int, ...]], Forecast]


@dataclass(frozen=True)
class _Span:
    """The forecasts of all methods from the origins of one span.

    origins: (N,) rows; actual: (N, H); forecasts: method -> (N, 3, H): point, lower, upper.
    """

    origins: np.ndarray
    actual: np.ndarray
    forecasts: dict[str, np.ndarray]


def backtest(
    prices: Prices,
    horizons: tuple[int, ...],
    *,
    price: str = "close",
    config: BaselineConfig = BaselineConfig(),  # noqa: B008 (frozen)
    baselines: Sequence[str] | None = None,
    models: Mapping[str, Forecaster] | None = None,
    spans: int = 3,
    origins_per_span: int = 20,
    test_fraction: float = 0.3,
    test_start: np.datetime64 | None = None,
) -> list[dict[str, Any]]:
    """Forecasts the last `test_fraction` of each ticker, cut into `spans` of equal length.

    With `test_start`, every ticker's days from that one on: what a trained model has not seen.
    A baseline is fitted anew at each of the `origins_per_span` evenly spread origins; no target
    leaves its span. `models`, as `model_forecaster` makes them, join the table under their names.
    All installed baselines take part by default, and the random walk always does.

    Returns:
        A row for each ticker, span (and "all" of them), horizon and method: what the names of
        `forecast_metrics` say, in prices; `skill` and `p_value` (Diebold-Mariano on absolute
        errors) are against the random walk. `separate` is how many of the forecasts, which are made
        from `origins` days, do not overlap. None is what is not defined.

    Raises:
        ValueError: a ticker is too short, or a baseline or the price column is unknown.
    """
    if spans < 1 or origins_per_span < 2 or not 0 < test_fraction < 1:
        raise ValueError(
            f"spans {spans}, origins_per_span {origins_per_span}, test_fraction {test_fraction} "
            f"must be at least 1, at least 2 and in (0, 1)"
        )
    names = installed_baselines() if baselines is None else baselines
    forecasters: dict[str, Forecaster] = {
        name: partial(forecast_prices, name, config=config)
        for name in dict.fromkeys((REFERENCE, *names))
    }
    forecasters.update(models or {})
    rows: list[dict[str, Any]] = []
    for ticker, table in prices.frames.items():
        values = select_column(table, price, where=ticker)
        first = len(table) * (1 - test_fraction)
        if test_start is not None:
            first = float(np.searchsorted(table.dates, test_start))
        origins = _choose_origins(ticker, len(table), first, horizons, spans, origins_per_span)
        parts = [_forecast_span(table, price, own, horizons, forecasters) for own in origins]
        if spans > 1:
            parts.append(_join(parts))
        for number, part in enumerate(parts):
            days = table.dates[part.origins[[0, -1]]]
            name = "all" if number == spans else f"{days[0]} to {days[1]}"
            rows += [
                {"ticker": ticker, "span": name, **row} for row in _score(values, part, horizons)
            ]
    return rows


def room_for(
    prices: Prices, horizons: tuple[int, ...], test_start: np.datetime64, spans: int
) -> int:
    """The most origins that each of `spans` may have from `test_start` on, for every ticker."""
    rooms = []
    for table in prices.frames.values():
        bounds = _bounds(len(table), float(np.searchsorted(table.dates, test_start)), spans)
        rooms += [stop - max(horizons) - start for start, stop in pairwise(bounds)]
    return int(min(rooms))


def model_forecaster(
    predict: Callable[[np.ndarray], np.ndarray],
    data: SeriesData,
    quantiles: tuple[float, ...],
) -> Forecaster:
    """A trained model as a method of `backtest`, next to the baselines.

    `predict` maps windows (N, T, F) float32 to outputs (N, H, Q) at the horizons of `data`, which
    it was trained on, and `quantiles`. The point is the median, the interval that of the outer
    quantiles. Pass `test_start=data.test_start` to `backtest`, so that no target is of a day that
    training or validation has seen; an earlier origin is refused.

    >>> models = {"LSTM": model_forecaster(predict, data, config.quantiles)}
    >>> backtest(prices, (1, 5), models=models, test_start=data.test_start)
    """
    config = data.config
    # The earliest row whose next one is a test day. Tickers with gaps have later ones, of which a
    # history does not tell; `test_start` is exact for each.
    first_origin = data.test.dates.min() if len(data.test) else data.test_start - 1

    def forecast(history: History, horizons: tuple[int, ...]) -> Forecast:
        if history.dates[-1] < first_origin:
            raise ValueError(
                f"a forecast from {history.dates[-1]} is of days before {data.test_start}, which "
                f"the model has been trained or validated on; pass test_start={data.test_start}"
            )
        if history.price != config.price or not set(horizons) <= set(config.horizons):
            raise ValueError(
                f"the model forecasts {config.price} at {config.horizons}; expected no other than "
                f"those, got {history.price} at {horizons}"
            )
        outputs = predict(data.newest_inputs(history.table))  # (1, H, Q)
        prices = data.to_prices(outputs, history.prices[-1:])[0]
        chosen = prices[[config.horizons.index(horizon) for horizon in horizons]]
        return Forecast(chosen[:, median_index(quantiles)], chosen[:, 0], chosen[:, -1])

    return forecast


def _choose_origins(
    ticker: str, length: int, first: float, horizons: tuple[int, ...], spans: int, count: int
) -> list[np.ndarray]:
    """The rows of the origins of each span of the rows from `first` on, evenly spread."""
    last = max(horizons)
    origins = []
    for start, stop in pairwise(_bounds(length, first, spans)):
        room = stop - last - start  # origins whose targets end within the span
        if start < 1 or room < count:
            raise ValueError(
                f"{ticker}: a span of {stop - start} rows has no room for {count} origins with "
                f"targets {last} rows on; take fewer or shorter, or a longer test span"
            )
        stride = room // (count - 1)
        origins.append(start - 1 + stride * np.arange(count))
    return origins


def _bounds(length: int, first: float, spans: int) -> np.ndarray:
    return np.linspace(first, length, spans + 1).astype(int)


def _forecast_span(
    table: PriceTable,
    price: str,
    origins: np.ndarray,
    horizons: tuple[int, ...],
    forecasters: dict[str, Forecaster],
) -> _Span:
    prices = table.columns[price]
    forecasts = {name: np.empty((len(origins), 3, len(horizons))) for name in forecasters}
    for number, origin in enumerate(origins):
        # Copies: a view would let a method reach the future through its base.
        past = {name: values[: origin + 1].copy() for name, values in table.columns.items()}
        history = History(PriceTable(table.dates[: origin + 1].copy(), past), price)
        for name, forecaster in forecasters.items():
            made = forecaster(history, horizons)
            forecasts[name][number] = made.point, made.lower, made.upper
    return _Span(origins, prices[origins[:, None] + np.array(horizons)], forecasts)


def _join(spans: Sequence[_Span]) -> _Span:
    return _Span(
        np.concatenate([span.origins for span in spans]),
        np.concatenate([span.actual for span in spans]),
        {
            name: np.concatenate([span.forecasts[name] for span in spans])
            for name in spans[0].forecasts
        },
    )


def _score(prices: np.ndarray, span: _Span, horizons: tuple[int, ...]) -> list[dict[str, Any]]:
    history, origin = prices[: span.origins[0] + 1], prices[span.origins]
    stride = int(np.diff(span.origins).min())
    rows = []
    for place, horizon in enumerate(horizons):
        actual, overlapping = span.actual[:, place], math.ceil(horizon / stride)
        reference = span.forecasts[REFERENCE][:, 0, place]
        for name, forecasts in span.forecasts.items():
            point, lower, upper = forecasts[:, :, place].T
            test = metrics.diebold_mariano(actual, point, reference, horizon=overlapping)
            rows.append(
                {
                    "horizon": horizon,
                    "method": name,
                    "origins": len(actual),
                    "separate": len(actual) // overlapping,
                    "mae": metrics.mean_absolute_error(actual, point),
                    "rmse": metrics.root_mean_squared_error(actual, point),
                    "smape": metrics.symmetric_percentage_error(actual, point),
                    "mase": metrics.scaled_error(actual, point, history),
                    "directional_accuracy": metrics.directional_accuracy(actual, point, origin),
                    "skill": metrics.skill(actual, point, reference),
                    "p_value": test and test[1],
                    "coverage": metrics.interval_coverage(actual, lower, upper),
                }
            )
    return rows
