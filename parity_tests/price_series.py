"""Price series to forecast, and the small baselines that forecast them."""

import numpy as np

from jaxmodels.shared.data.price_sources import Prices
from jaxmodels.shared.data.price_tables import PriceTable
from jaxmodels.shared.forecasting.baselines import (
    BaselineConfig,
    History,
)

CONFIG = BaselineConfig(season=4, max_history=200, linear_window=12, linear_kernel=5)
Z90 = 1.6448536269514722  # the normal quantile at 0.95
STATSMODELS = ("ARIMA", "exponential smoothing")
NAIVE = ("random walk", "drift", "seasonal naive")


def history_of(prices: np.ndarray) -> History:
    dates = np.busday_offset(np.datetime64("2015-01-05"), np.arange(len(prices)))
    return History(PriceTable(dates, {"close": np.asarray(prices, np.float64)}))


def prices_of(**closes: np.ndarray) -> Prices:
    frames = {name: history_of(close).table for name, close in closes.items()}
    return Prices("made", tuple(frames), frames, ())


def walk(
    num_rows: int, seed: int = 0, *, drift: float = 0.0, deviation: float = 0.02
) -> np.ndarray:
    steps = np.random.Generator(np.random.PCG64(seed)).normal(drift, deviation, num_rows)
    return 50 * np.exp(np.cumsum(steps))
