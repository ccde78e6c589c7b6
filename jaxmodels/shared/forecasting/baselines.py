"""What a forecaster has to beat: naive rules, ARIMA, exponential smoothing, linear maps, Prophet.

Every baseline maps a history, which ends at the origin, to a normal distribution of the log return
from there to each horizon: forecasts stay positive, and that of the random walk is the last price
to the bit. `forecast_prices` turns it into prices. The naive rules and their intervals are those of
Hyndman & Athanasopoulos 2021, "Forecasting: principles and practice", sections 5.2 and 5.5.

>>> forecast_prices("drift", History(table), (1, 5)).point.shape
(2,)
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import NormalDist
from typing import Any

import numpy as np

from jaxmodels.shared.data.price_tables import PriceTable

_PERCENT = 100  # likelihoods of daily log returns are maximised in percent: 0.0001 stalls them


@dataclass(frozen=True)
class BaselineConfig:
    """Sizes of the baselines, in rows.

    `max_history` is what ARIMA, exponential smoothing, DLinear and NLinear look back on.
    `linear_ridge` is the penalty a row of DLinear and NLinear, whose inputs have standard deviation
    1. `coverage` is the share of values that an interval should hold.
    """

    season: int = 5
    max_history: int = 1000
    arima_order: tuple[int, int, int] = (1, 1, 1)
    seasonal_smoothing: bool = False
    linear_window: int = 60
    linear_kernel: int = 25
    linear_ridge: float = 0.01
    coverage: float = 0.9

    def __post_init__(self) -> None:
        for name in ("season", "linear_window", "linear_kernel"):
            if getattr(self, name) < 1:
                raise ValueError(f"baselines.{name} {getattr(self, name)} must be at least 1")
        if self.linear_kernel % 2 == 0:
            raise ValueError(f"baselines.linear_kernel {self.linear_kernel} must be odd; try 25")
        if self.max_history < 2 * self.linear_window:
            raise ValueError(
                f"baselines.max_history {self.max_history} must be at least twice linear_window "
                f"{self.linear_window}"
            )
        if not self.linear_ridge > 0:
            raise ValueError(f"baselines.linear_ridge {self.linear_ridge} must be positive")
        if not 0 < self.coverage < 1:
            raise ValueError(f"baselines.coverage {self.coverage} must be in (0, 1); try 0.9")


@dataclass(frozen=True)
class History:
    """What is known at the origin, the last row of `table`; the column `price` is forecast."""

    table: PriceTable
    price: str = "close"

    @property
    def dates(self) -> np.ndarray:
        return self.table.dates

    @property
    def prices(self) -> np.ndarray:
        return self.table.columns[self.price]


@dataclass(frozen=True)
class Forecast:
    """Prices at each horizon, and the interval around them. All (H,) float64."""

    point: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


Returns = tuple[np.ndarray, np.ndarray]  # mean and standard deviation of the log return, each (H,)
Baseline = Callable[[History, np.ndarray, BaselineConfig], Returns]


def random_walk(history: History, horizons: np.ndarray, config: BaselineConfig) -> Returns:
    """The last price; the uncertainty grows with the root of the horizon."""
    steps = np.diff(np.log(history.prices))
    return np.zeros(len(horizons)), _rms(steps) * np.sqrt(horizons)


def drift(history: History, horizons: np.ndarray, config: BaselineConfig) -> Returns:
    """The last price, grown on at the mean rate of the whole history."""
    steps = np.diff(np.log(history.prices))
    spread = steps.std(ddof=0) * np.sqrt(horizons * (1 + horizons / len(steps)))
    return horizons * steps.mean(), spread


def seasonal_naive(history: History, horizons: np.ndarray, config: BaselineConfig) -> Returns:
    """The price of the same place in the last season of the history."""
    logs, season = np.log(history.prices), config.season
    seasons_ahead = (horizons - 1) // season
    last_season = logs[-season:][(horizons - 1) % season]
    return last_season - logs[-1], _rms(logs[season:] - logs[:-season]) * np.sqrt(seasons_ahead + 1)


def arima(history: History, horizons: np.ndarray, config: BaselineConfig) -> Returns:
    """ARIMA (Box & Jenkins 1970) of `config.arima_order` on log prices, by maximum likelihood."""
    try:
        from statsmodels.tsa.arima.model import ARIMA
    except ImportError as error:
        raise _missing("ARIMA", "statsmodels", error) from error
    logs = _recent_logs(history, config)
    with warnings.catch_warnings():
        # Starting parameters that the library replaces by zeros: common, and of no consequence.
        warnings.filterwarnings("ignore", message="Non-(invertible|stationary) starting")
        fitted = ARIMA(logs * _PERCENT, order=config.arima_order).fit()
    forecast = fitted.get_forecast(int(horizons.max()))
    means, deviations = forecast.predicted_mean / _PERCENT, forecast.se_mean / _PERCENT
    return means[horizons - 1] - logs[-1], deviations[horizons - 1]


def exponential_smoothing(
    history: History, horizons: np.ndarray, config: BaselineConfig
) -> Returns:
    """Holt's level and damped trend (Gardner & McKenzie 1985) on log prices.

    With `config.seasonal_smoothing`, Winters' season of `config.season` rows besides.
    """
    try:
        import pandas
        from statsmodels.tsa.exponential_smoothing.ets import ETSModel
    except ImportError as error:
        raise _missing("exponential smoothing", "statsmodels", error) from error
    logs = _recent_logs(history, config)
    model = ETSModel(
        pandas.Series(logs * _PERCENT),  # of an array it gives no intervals
        trend="add",
        damped_trend=True,
        seasonal="add" if config.seasonal_smoothing else None,
        seasonal_periods=config.season if config.seasonal_smoothing else None,
        initialization_method="heuristic",
    )
    fitted: Any = model.fit(disp=False)
    forecast = fitted.get_prediction(len(logs), len(logs) + int(horizons.max()) - 1)
    means = forecast.predicted_mean.to_numpy()[horizons - 1] / _PERCENT
    deviations = np.sqrt(np.asarray(forecast.forecast_variance))[horizons - 1] / _PERCENT
    return means - logs[-1], deviations


def dlinear(history: History, horizons: np.ndarray, config: BaselineConfig) -> Returns:
    """One linear map of the window's moving average and one of the rest (Zeng et al. 2023).

    "Are transformers effective for time series forecasting?" trains both by gradient descent; here
    they are solved for. Without the ridge the two would be one map of the window, since the
    average is a linear map of it.
    """
    half = config.linear_kernel // 2

    def decompose(windows: np.ndarray) -> np.ndarray:
        padded = np.pad(windows, ((0, 0), (half, half)), mode="edge")  # as the paper's code does
        kernel_views = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1, axis=1)
        trend = kernel_views.mean(axis=-1)  # (M, L)
        return np.concatenate([trend, windows - trend], axis=1)  # (M, 2L)

    return _linear(history, horizons, config, decompose, relative=False)


def nlinear(history: History, horizons: np.ndarray, config: BaselineConfig) -> Returns:
    """A linear map of the window less its last value, which is added again (Zeng et al. 2023)."""
    return _linear(history, horizons, config, lambda windows: windows, relative=True)


def prophet(history: History, horizons: np.ndarray, config: BaselineConfig) -> Returns:
    """A trend with change points and calendar seasons (Taylor & Letham 2018) on log prices."""
    try:
        import pandas
        from prophet import Prophet  # type: ignore[import-not-found]
    except ImportError as error:
        raise _missing("Prophet", "prophet", error) from error
    one_deviation = 2 * NormalDist().cdf(1) - 1
    model = Prophet(interval_width=one_deviation, daily_seasonality=False)
    logs = np.log(history.prices)
    model.fit(pandas.DataFrame({"ds": history.dates, "y": logs}))
    table = model.predict(pandas.DataFrame({"ds": _days_ahead(history.dates, horizons)}))
    spread = (table["yhat_upper"] - table["yhat_lower"]) / 2
    return table["yhat"].to_numpy() - logs[-1], spread.to_numpy()


# name -> (the baseline, the fewest rows of history it takes at a config and a last horizon)
BASELINES: dict[str, tuple[Baseline, Callable[[BaselineConfig, int], int]]] = {
    "random walk": (random_walk, lambda config, last: 2),
    "drift": (drift, lambda config, last: 2),
    "seasonal naive": (seasonal_naive, lambda config, last: config.season + 1),
    "ARIMA": (arima, lambda config, last: 10 + sum(config.arima_order)),
    "exponential smoothing": (
        exponential_smoothing,
        lambda config, last: max(10, 2 * config.season) + config.season,
    ),
    "DLinear": (dlinear, lambda config, last: 2 * config.linear_window + last),
    "NLinear": (nlinear, lambda config, last: 2 * config.linear_window + last),
    "Prophet": (prophet, lambda config, last: 10),
}


def installed_baselines() -> tuple[str, ...]:
    """The names in `BASELINES`, without Prophet where that is not installed."""
    return tuple(name for name in BASELINES if name != "Prophet" or find_spec("prophet"))


def fewest_rows(name: str, config: BaselineConfig, last: int) -> int:
    """How many rows of history a baseline needs to forecast `last` rows on."""
    return BASELINES[name][1](config, last)


def check_installed() -> None:
    """Raises a ValueError where a library of the baselines (but for Prophet's) is missing."""
    if find_spec("statsmodels") is None:
        raise ValueError(
            "the table of forecasts needs statsmodels, which is not installed; "
            "run: pip install 'jaxmodels[forecast]'"
        )


def forecast_prices(
    name: str,
    history: History,
    horizons: tuple[int, ...],
    config: BaselineConfig = BaselineConfig(),
) -> Forecast:
    """The forecast of a baseline: prices at `horizons` rows past the end of the history.

    The point is the median. A history that never moved is forecast to stay, without a fit: there is
    nothing to estimate.

    Raises:
        ValueError: the baseline is unknown or not installed, or the history too short or no price.
    """
    if name not in BASELINES:
        raise ValueError(f"baseline {name!r} is unknown; expected {', '.join(BASELINES)}")
    if not horizons or min(horizons) < 1:
        raise ValueError(f"horizons {horizons} must be 1 or more; try 1 5 20")
    baseline, _ = BASELINES[name]
    needed = fewest_rows(name, config, max(horizons))
    if len(history.prices) < needed:
        raise ValueError(
            f"{name} has a history of {len(history.prices)} rows; expected at least {needed}; "
            f"start later, or shorten the season, the window or the horizons"
        )
    wrong = np.flatnonzero(~(np.isfinite(history.prices) & (history.prices > 0)))
    if wrong.size:
        raise ValueError(
            f"{name} has the price {history.prices[wrong[0]]} on {history.dates[wrong[0]]}; "
            f"expected prices above 0; mend the row"
        )
    if np.ptp(history.prices[-config.max_history :]) == 0:
        mean, deviation = np.zeros(len(horizons)), np.zeros(len(horizons))
    else:
        mean, deviation = baseline(history, np.array(horizons), config)
    reach = NormalDist().inv_cdf((1 + config.coverage) / 2) * deviation
    last = history.prices[-1]
    return Forecast(
        *(last * np.exp(log_return) for log_return in (mean, mean - reach, mean + reach))
    )


def _linear(
    history: History,
    horizons: np.ndarray,
    config: BaselineConfig,
    inputs: Callable[[np.ndarray], np.ndarray],
    *,
    relative: bool,
) -> Returns:
    """Ridge regression of every horizon on the inputs made of each window of the history.

    `relative` windows and targets are counted from the window's last value, others from the mean
    of the history, as the paper's standardised series are.
    """
    logs, last = _recent_logs(history, config), int(horizons.max())
    windows = np.lib.stride_tricks.sliding_window_view(logs, config.linear_window)  # (M, L)
    bases = windows[:, -1:] if relative else np.full((len(windows), 1), logs.mean())
    examples = inputs(windows - bases)  # (M, F)
    design, newest = examples[:-last], examples[-1]
    ends = np.arange(config.linear_window - 1, len(logs) - last)
    targets = logs[ends[:, None] + horizons] - bases[:-last]  # (M - last, H)
    # The intercept is not penalised: it is fitted by centring both sides.
    center, scale, target_center = design.mean(axis=0), design.std(axis=0), targets.mean(axis=0)
    scale = np.where(scale > 0, scale, 1.0)  # a relative window ends in zeros
    design, targets = (design - center) / scale, targets - target_center
    gram = design.T @ design + config.linear_ridge * len(design) * np.eye(design.shape[1])
    weights = np.linalg.solve(gram, design.T @ targets)  # (F, H)
    means = (newest - center) / scale @ weights + target_center + bases[-1] - logs[-1]
    return means, _rms(targets - design @ weights)


def _recent_logs(history: History, config: BaselineConfig) -> np.ndarray:
    return np.log(history.prices[-config.max_history :])


def _rms(errors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(errors).mean(axis=0))


def _days_ahead(dates: np.ndarray, horizons: np.ndarray) -> np.ndarray:
    """The days `horizons` rows on: trading days if the history has no weekend."""
    if np.is_busday(dates).all():
        return np.busday_offset(dates[-1], horizons)
    step = np.median(np.diff(dates).astype(np.int64))
    return dates[-1] + np.rint(horizons * step).astype(np.int64)


def _missing(name: str, package: str, error: ImportError) -> ValueError:
    return ValueError(
        f"{name} needs {package} ({error}); pip install 'jaxmodels[forecast]' installs it"
        if package != "prophet"
        else f"{name} needs prophet ({error}); pip install prophet installs it"
    )
