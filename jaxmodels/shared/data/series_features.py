"""Features of a price series by name, each a function of the past alone.

Row t of a feature reads rows up to t and no further; its first rows, where it has not enough of
them, are NaN. A name is a row of `FEATURES`, with its length where it has one (`rsi_14`), or a
column of the source (`volume`).

>>> compute_features(table, ("log_return", "rsi_14", "volume"), price="close").shape
(2768, 3)
"""

import re
from collections.abc import Callable

import numpy as np

from jaxmodels.shared.data.price_tables import PriceTable

_MACD_FAST, _MACD_SLOW = 12, 26  # Appel's own lengths


def simple_returns(prices: np.ndarray) -> np.ndarray:
    """p[t] / p[t-1] - 1: (N,) -> (N,)."""
    return _after_warm_up(prices[1:] / prices[:-1] - 1, len(prices))


def log_returns(prices: np.ndarray) -> np.ndarray:
    """log(p[t] / p[t-1]): (N,) -> (N,)."""
    return _after_warm_up(np.diff(np.log(prices)), len(prices))


def moving_average(prices: np.ndarray, length: int) -> np.ndarray:
    """The price over the mean of the last `length`, less 1: (N,) -> (N,).

    A ratio, since an average in dollars says more of the year than of the trend.
    """
    means = _trailing(prices, length).mean(axis=-1)
    return _after_warm_up(prices[length - 1 :] / means - 1, len(prices))


def volatility(prices: np.ndarray, length: int) -> np.ndarray:
    """The standard deviation (ddof 0) of the last `length` log returns: (N,) -> (N,)."""
    return _after_warm_up(_trailing(log_returns(prices)[1:], length).std(axis=-1), len(prices))


def relative_strength(prices: np.ndarray, length: int) -> np.ndarray:
    """The relative strength index, 0 to 100: (N,) -> (N,).

    Wilder 1978, "New Concepts in Technical Trading Systems": gains and losses are smoothed by
    1 / length, starting from the mean of the first `length`. 50 where the price has not moved.
    """
    changes = np.diff(prices)
    if len(changes) < length:
        return np.full(len(prices), np.nan)
    gains = _smooth_from_mean(np.maximum(changes, 0), length)
    losses = _smooth_from_mean(np.maximum(-changes, 0), length)
    moves = gains + losses
    index = np.divide(100 * gains, moves, out=np.full(len(moves), 50.0), where=moves != 0)
    return _after_warm_up(index, len(prices))


def macd(prices: np.ndarray) -> np.ndarray:
    """Moving average convergence / divergence (Appel 1979) as a share of the price: (N,) -> (N,).

    The exponential averages over 12 and 26 rows start from the first price; their difference counts
    from row 25 on.
    """
    difference = _exponential_average(prices, _MACD_FAST) - _exponential_average(prices, _MACD_SLOW)
    return _after_warm_up((difference / prices)[_MACD_SLOW - 1 :], len(prices))


def volume_change(volume: np.ndarray) -> np.ndarray:
    """log((1 + v[t]) / (1 + v[t-1])), which a day without trade leaves finite: (N,) -> (N,)."""
    return _after_warm_up(np.diff(np.log1p(volume)), len(volume))


# name -> (the function, the column it reads or None for the price that is forecast, has a length)
FEATURES: dict[str, tuple[Callable[..., np.ndarray], str | None, bool]] = {
    "return": (simple_returns, None, False),
    "log_return": (log_returns, None, False),
    "moving_average": (moving_average, None, True),
    "volatility": (volatility, None, True),
    "rsi": (relative_strength, None, True),
    "macd": (macd, None, False),
    "volume_change": (volume_change, "volume", False),
}


def compute_features(
    table: PriceTable, names: tuple[str, ...], *, price: str, where: str = "prices"
) -> np.ndarray:
    """-> (N, F) float64, NaN in the first rows of a feature that has not enough of them yet.

    Raises:
        ValueError: a name is neither a feature nor a column, or a column has a row with no number.
    """
    features = [_compute(table, name, price, where) for name in names]
    return np.stack(features, axis=-1)


def select_column(table: PriceTable, name: str, *, where: str) -> np.ndarray:
    """A column of the source, without a hole: (N,) float64.

    Raises:
        ValueError: there is no such column, or a row of it has no number.
    """
    if name not in table.columns:
        raise ValueError(
            f"{where} has no column {name}; expected one of {', '.join(table.columns)}; "
            f"add it, or leave out what needs it"
        )
    values = table.columns[name]
    missing = np.flatnonzero(~np.isfinite(values))
    if missing.size:
        raise ValueError(
            f"{where} {table.dates[missing[0]]}, column {name}: no number (and {missing.size - 1} "
            f"more); nothing is filled in: mend the rows or leave the column out of the features"
        )
    return values


def _compute(table: PriceTable, name: str, price: str, where: str) -> np.ndarray:
    if name in table.columns:
        return select_column(table, name, where=where)
    base, _, length = name.rpartition("_") if re.search(r"_\d+$", name) else (name, "", "")
    function, column, has_length = FEATURES.get(base, (None, None, False))
    if function is None or has_length != bool(length):
        known = [key + "_N" * FEATURES[key][2] for key in FEATURES]
        raise ValueError(
            f"{where}: feature {name!r} is unknown; expected {', '.join(known)} or a column "
            f"({', '.join(table.columns)})"
        )
    if has_length and int(length) < 1:
        raise ValueError(f"{where}: feature {name!r} has no length; try {base}_14")
    values = select_column(table, column or price, where=where)
    return function(values, int(length)) if has_length else function(values)


def _trailing(values: np.ndarray, length: int) -> np.ndarray:
    """(N,) -> (max(0, N - length + 1), length): the run that ends at each row, as a view."""
    if len(values) < length:
        return np.empty((0, length))
    return np.lib.stride_tricks.sliding_window_view(values, length)


def _exponential_average(values: np.ndarray, length: int) -> np.ndarray:
    return _smooth(values, 2 / (length + 1), start=values[0])


def _smooth_from_mean(values: np.ndarray, length: int) -> np.ndarray:
    """(N,) -> (N - length + 1,): the mean of the first `length`, then smoothed by 1 / length."""
    start = values[:length].mean()
    return np.append(start, _smooth(values[length:], 1 / length, start=start))


def _smooth(values: np.ndarray, weight: float, *, start: float) -> np.ndarray:
    """s[t] = weight * v[t] + (1 - weight) * s[t-1], and s[-1] = start: (N,) -> (N,)."""
    from scipy.signal import lfilter  # imported late: it takes half a second

    if not len(values):
        return values
    carried = [(1 - weight) * start]
    return lfilter([weight], [1, weight - 1], values, zi=carried)[0]


def _after_warm_up(values: np.ndarray, num_rows: int) -> np.ndarray:
    """The values of the last rows -> all `num_rows`, NaN before."""
    padded = np.full(num_rows, np.nan)
    if len(values):
        padded[num_rows - len(values) :] = values
    return padded
