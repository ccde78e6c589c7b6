"""Windows of price series as numpy: features, targets, a split by time, a scaler that cannot peek.

>>> data = load_series("sample", SeriesDataConfig(features=("log_return", "rsi_14")))
>>> data.train.inputs().shape, data.train.targets.shape
((640, 60, 2), (640, 3))
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxmodels.shared.data.price_sources import Prices, read_prices
from jaxmodels.shared.data.price_tables import PriceTable
from jaxmodels.shared.data.series_features import compute_features, select_column

_SPANS = ("train", "validation", "test")
_NO_SPAN = -1


@dataclass(frozen=True)
class SeriesDataConfig:
    """What is forecast from what. Lengths and horizons are in rows (days of trading).

    `price` is the column that is forecast. At horizon h the target "log_return" is
    log(p[t+h] / p[t]), "return" is p[t+h] / p[t] - 1 and "price" is p[t+h]. The last
    `test_fraction` of the days is the test span, `validation_fraction` of them the one before.
    `scaler` brings features and targets to mean 0 and standard deviation 1 (ddof 0), or to [0, 1].
    """

    dataset: Literal["prices"] = "prices"
    price: str = "close"
    target: Literal["log_return", "return", "price"] = "log_return"
    features: tuple[str, ...] = ("log_return",)
    window: int = 60
    horizons: tuple[int, ...] = (1, 5, 20)
    validation_fraction: float = 0.1
    test_fraction: float = 0.2
    scaler: Literal["standard", "minmax", "none"] = "standard"

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise ValueError(f"data.target {self.target!r} must be one of {', '.join(TARGETS)}")
        if self.scaler not in ("standard", "minmax", "none"):
            raise ValueError(f"data.scaler {self.scaler!r} must be standard, minmax or none")
        if not self.features or len(set(self.features)) < len(self.features):
            raise ValueError(f"data.features {self.features} must be one or more different names")
        if self.window < 1:
            raise ValueError(f"data.window {self.window} must be at least 1")
        if not self.horizons or list(self.horizons) != sorted({0, *self.horizons})[1:]:
            raise ValueError(f"data.horizons {self.horizons} must ascend, from 1 or more; try 1 5")
        for name in ("validation_fraction", "test_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"data.{name} {getattr(self, name)} must be in [0, 1)")
        if not self.validation_fraction + self.test_fraction < 1:
            raise ValueError(
                f"data.validation_fraction {self.validation_fraction} and data.test_fraction "
                f"{self.test_fraction} leave no training span; their sum must be below 1"
            )


@dataclass(frozen=True)
class Target:
    """A target and its inverse, between origin prices (N, 1) and the prices to come (N, H)."""

    from_prices: Callable[[np.ndarray, np.ndarray], np.ndarray]
    to_prices: Callable[[np.ndarray, np.ndarray], np.ndarray]


TARGETS = {
    "log_return": Target(
        lambda origin, later: np.log(later / origin), lambda origin, value: origin * np.exp(value)
    ),
    "return": Target(
        lambda origin, later: later / origin - 1, lambda origin, value: origin * (1 + value)
    ),
    "price": Target(lambda origin, later: later, lambda origin, value: value),
}


@dataclass(frozen=True)
class Scaler:
    """An affine map of the last axis and its inverse. shift, scale: (F,) float64."""

    shift: np.ndarray
    scale: np.ndarray

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return (values - self.shift) / self.scale

    def inverse(self, values: np.ndarray) -> np.ndarray:
        return values * self.scale + self.shift


@dataclass(frozen=True)
class Windows:
    """The windows of one span, ticker by ticker and in order of time.

    targets: (N, H) float32, scaled. origin_prices (N,) float64 and dates (N,) datetime64[D] are of
    the newest row that an input sees. tickers: (N,) int32, places in `SeriesData.tickers`.

    rows: (R, F) float32, the scaled features of every ticker, one after another; origins: (N,)
    int64, the row where each window ends. `inputs` cuts windows as they are asked for, since all of
    them together hold every row `length` times.
    """

    rows: np.ndarray
    length: int
    origins: np.ndarray
    targets: np.ndarray
    origin_prices: np.ndarray
    dates: np.ndarray
    tickers: np.ndarray

    def __len__(self) -> int:
        return len(self.origins)

    def inputs(self, chosen: np.ndarray | slice = slice(None)) -> np.ndarray:
        """The windows of the chosen examples, of all by default -> (N, T, F) float32."""
        past = np.arange(1 - self.length, 1)
        return self.rows[self.origins[chosen][:, None] + past]


@dataclass(frozen=True)
class SeriesData:
    """A data set of windows.

    A window belongs to the span that holds every day from the one after its origin to its last
    target; one that straddles a boundary belongs to none, so no training target is a later span's.
    `validation_start` and `test_start` are the first days of those spans.
    """

    source: str
    tickers: tuple[str, ...]
    prices: Prices
    config: SeriesDataConfig
    train: Windows
    validation: Windows
    test: Windows
    validation_start: np.datetime64
    test_start: np.datetime64
    input_scaler: Scaler
    target_scaler: Scaler

    def newest_inputs(self, table: PriceTable) -> np.ndarray:
        """The window that ends with the table, to forecast what comes after it -> (1, T, F).

        Raises:
            ValueError: the table is too short or lacks a column.
        """
        return newest_window(table, self.config, self.input_scaler)

    def to_prices(self, outputs: np.ndarray, origin_prices: np.ndarray) -> np.ndarray:
        """Scaled targets (N, H) or, with Q quantiles, (N, H, Q) -> prices of that shape, float64.

        origin_prices: (N,). A quantile stays one, since every step of the way ascends.
        """
        return outputs_to_prices(outputs, origin_prices, self.config, self.target_scaler)


@dataclass(frozen=True)
class _Ticker:
    """One ticker before the split. M origins: every row with a whole window and all targets.

    prices, dates: (N,); features: (N, F), unscaled, with `warm_up` rows that are not whole;
    origins: (M,); targets: (M, H), unscaled.
    """

    prices: np.ndarray
    dates: np.ndarray
    features: np.ndarray
    warm_up: int
    origins: np.ndarray
    targets: np.ndarray


def load_series(
    source: str,
    config: SeriesDataConfig,
    *,
    tickers: Sequence[str] = (),
    scalers: tuple[Scaler, Scaler] | None = None,
) -> SeriesData:
    """Reads `source`, as `read_prices` does, and cuts it into windows, as `make_windows` does.

    Raises:
        ValueError: the source is unknown, unreachable or malformed, or too short for the config.
    """
    return make_windows(read_prices(source, tickers=tickers), config, scalers=scalers)


def make_windows(
    prices: Prices, config: SeriesDataConfig, *, scalers: tuple[Scaler, Scaler] | None = None
) -> SeriesData:
    """Windows of all tickers, pooled; none crosses from one ticker to the next.

    The spans are of the calendar, the same for every ticker. The scalers are fitted on the training
    span alone: the features of its days, the targets of its windows. Those that are given, of
    inputs and of targets, are kept.

    Raises:
        ValueError: a ticker is too short for a window, a span has none, or a feature is unknown.
    """
    series = [_prepare(table, name, config) for name, table in prices.frames.items()]
    starts = _span_starts(np.unique(np.concatenate([one.dates for one in series])), config)
    spans = [_span_of_windows(one, starts, config.horizons[-1]) for one in series]
    for number, name in enumerate(_SPANS):
        wanted = name == "train" or getattr(config, f"{name}_fraction") > 0
        if wanted and not any((own == number).any() for own in spans):
            raise ValueError(
                f"{prices.source}: no {name} window lies within its span (validation begins on "
                f"{starts[0]}, test on {starts[1]}); shorten data.window {config.window} or "
                f"data.horizons {config.horizons}, change the fractions or read more days"
            )
    seen = [one.features[one.warm_up :][one.dates[one.warm_up :] < starts[0]] for one in series]
    known = [one.targets[own == 0] for one, own in zip(series, spans, strict=True)]
    input_scaler, target_scaler = scalers or (
        _fit_scaler(np.concatenate(seen), config.scaler),
        _fit_scaler(np.concatenate(known), config.scaler),
    )
    rows = np.concatenate([input_scaler(one.features) for one in series]).astype(np.float32)
    pools = {
        name: _pool(series, [own == number for own in spans], rows, config.window, target_scaler)
        for number, name in enumerate(_SPANS)
    }
    return SeriesData(
        source=prices.source,
        tickers=prices.tickers,
        prices=prices,
        config=config,
        **pools,
        validation_start=starts[0],
        test_start=starts[1],
        input_scaler=input_scaler,
        target_scaler=target_scaler,
    )


def newest_window(
    table: PriceTable, config: SeriesDataConfig, scaler: Scaler, *, where: str = "prices"
) -> np.ndarray:
    """`SeriesData.newest_inputs`, of a table alone that need not have room for any span."""
    features = compute_features(table, config.features, price=config.price, where=where)
    newest = scaler(features[-config.window :]).astype(np.float32)
    if len(newest) < config.window or np.isnan(newest).any():
        raise ValueError(
            f"{where}: a table of {len(table)} rows has no whole window of {config.window} rows "
            f"for the features {', '.join(config.features)}; expected more rows"
        )
    return newest[None]


def outputs_to_prices(
    outputs: np.ndarray, origin_prices: np.ndarray, config: SeriesDataConfig, scaler: Scaler
) -> np.ndarray:
    """`SeriesData.to_prices`, with the scaler of the targets."""
    values = np.moveaxis(outputs.astype(np.float64), 1, -1)  # (N, H) or (N, Q, H)
    values = scaler.inverse(values)
    origins = origin_prices.reshape(-1, *[1] * (values.ndim - 1))
    return np.moveaxis(TARGETS[config.target].to_prices(origins, values), -1, 1)


def _prepare(table: PriceTable, name: str, config: SeriesDataConfig) -> _Ticker:
    features = compute_features(table, config.features, price=config.price, where=name)
    prices = select_column(table, config.price, where=name)
    whole = np.asarray(np.isfinite(features).all(axis=-1))  # (N,)
    warm_up = int(np.argmax(whole)) if whole.any() else len(table)
    if not whole[warm_up:].all():
        day = table.dates[warm_up + np.argmin(whole[warm_up:])]
        raise ValueError(
            f"{name} {day}: a feature of {', '.join(config.features)} is too large to compute; "
            f"expected prices of one unit; mend the row"
        )
    last = config.horizons[-1]
    if len(table) < warm_up + config.window + last:
        raise ValueError(
            f"{name} has {len(table)} rows, and the first {warm_up} lack a feature that looks back "
            f"further; expected {config.window + last} after them, for data.window {config.window} "
            f"and data.horizons up to {last}; shorten those or the features, or read more days"
        )
    origins = np.arange(warm_up + config.window - 1, len(table) - last)
    later = prices[origins[:, None] + np.array(config.horizons)]  # (M, H)
    targets = TARGETS[config.target].from_prices(prices[origins][:, None], later)
    return _Ticker(prices, table.dates, features, warm_up, origins, targets)


def _span_starts(days: np.ndarray, config: SeriesDataConfig) -> np.ndarray:
    """The first days of the validation and the test span; past the end if a span is empty."""
    num_test = round(config.test_fraction * len(days))
    num_validation = round(config.validation_fraction * len(days))
    test_start = len(days) - num_test
    return np.append(days, days[-1] + 1)[[test_start - num_validation, test_start]]


def _span_of_windows(series: _Ticker, starts: np.ndarray, last: int) -> np.ndarray:
    """-> (M,): the place in `_SPANS` of each window, or `_NO_SPAN`."""
    span_of_day = np.searchsorted(starts, series.dates, side="right")  # (N,)
    first, final = span_of_day[series.origins + 1], span_of_day[series.origins + last]
    return np.where(first == final, first, _NO_SPAN)


def _fit_scaler(values: np.ndarray, kind: str) -> Scaler:
    """values: (N, F) -> the scaler; a constant column becomes all zeros."""
    if kind == "none":
        return Scaler(np.zeros(values.shape[1]), np.ones(values.shape[1]))
    if kind == "standard":
        shift, scale = values.mean(axis=0), values.std(axis=0, ddof=0)
    else:
        shift, scale = values.min(axis=0), np.ptp(values, axis=0)
    # A constant has a standard deviation of a few roundings, which must not be blown up to 1.
    constant = np.ptp(values, axis=0) == 0
    return Scaler(np.where(constant, values[0], shift), np.where(constant, 1.0, scale))


def _pool(
    series: Sequence[_Ticker],
    chosen: Sequence[np.ndarray],
    rows: np.ndarray,
    length: int,
    target_scaler: Scaler,
) -> Windows:
    """The chosen windows (a mask over the origins of each ticker) of all tickers."""
    parts, first_row = [], 0
    for number, (one, own) in enumerate(zip(series, chosen, strict=True)):
        ends = one.origins[own]
        targets = target_scaler(one.targets[own]).astype(np.float32)
        tickers = np.full(len(ends), number, np.int32)
        parts.append((first_row + ends, targets, one.prices[ends], one.dates[ends], tickers))
        first_row += len(one.dates)
    return Windows(rows, length, *(np.concatenate(part) for part in zip(*parts, strict=True)))
