"""Every baseline forecasts what its definition says."""

import dataclasses
import sys
import types

import numpy as np
import pandas
import pytest

from jaxmodels.shared.forecasting.baselines import (
    BaselineConfig,
    forecast_prices,
    installed_baselines,
)
from parity_tests.price_series import CONFIG, STATSMODELS, Z90, history_of, walk

# Imported here, before pytest sets its filters of warnings: the import sets some of its own.
pytest.importorskip("statsmodels.tsa.api")

# statsmodels says so when it starts a fit from zeros or stops one early; 150 rows are few.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Non-(stationary|invertible) starting", "ignore:Maximum Likelihood optimization failed"
)

# ---- The naive rules, by hand


def test_random_walk_stays_to_the_bit():
    prices = walk(50)
    made = forecast_prices("random walk", history_of(prices), (1, 4, 9), CONFIG)
    assert made.point.tolist() == [prices[-1]] * 3
    deviation = np.sqrt(np.mean(np.diff(np.log(prices)) ** 2)) * np.sqrt([1, 4, 9])
    np.testing.assert_allclose(made.upper, prices[-1] * np.exp(Z90 * deviation))
    np.testing.assert_allclose(made.lower, prices[-1] * np.exp(-Z90 * deviation))


def test_drift_goes_on_as_before():
    made = forecast_prices("drift", history_of(np.array([10.0, 30.0, 40.0])), (1, 2), CONFIG)
    np.testing.assert_allclose(made.point, [80, 160])  # twice a row, from 10 to 40
    deviation = np.log([3, 4 / 3]).std() * np.sqrt([1 * (1 + 1 / 2), 2 * (1 + 2 / 2)])
    np.testing.assert_allclose(made.upper, [80, 160] * np.exp(Z90 * deviation))


def test_seasonal_naive_repeats_the_last_season():
    prices = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 11.0, 13.0])
    horizons = (1, 2, 3, 4, 5, 8, 9)
    made = forecast_prices("seasonal naive", history_of(prices), horizons, CONFIG)
    np.testing.assert_allclose(made.point, [5, 7, 11, 13, 5, 13, 5])
    deviation = np.sqrt(np.mean(np.log(prices[4:] / prices[:4]) ** 2))
    expected = made.point * np.exp(Z90 * deviation * np.sqrt([1, 1, 1, 1, 2, 2, 3]))
    np.testing.assert_allclose(made.upper, expected)


# ---- The fitted ones, on series whose future is known


def seasonal_series(num_rows: int) -> np.ndarray:
    rows = np.arange(num_rows)
    return 100 * np.exp(0.1 * np.sin(2 * np.pi * rows / 8) + 0.05 * np.sin(2 * np.pi * rows / 5))


@pytest.mark.parametrize("name", ["DLinear", "NLinear"])
def test_linear_maps_learn_a_recurrence(name):
    """Two sines obey a linear recurrence of four terms: a window of 12 foretells them exactly."""
    series = seasonal_series(220)
    config = dataclasses.replace(CONFIG, linear_ridge=1e-10)
    made = forecast_prices(name, history_of(series[:200]), (1, 3, 20), config)
    np.testing.assert_allclose(made.point, series[[200, 202, 219]], rtol=1e-3)
    assert (made.upper / made.lower < 1.01).all()


def test_dlinear_is_the_ridge_of_its_two_parts():
    """Against scikit-learn's ridge on trend and remainder, worked out in another way."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    prices = walk(150)
    logs = np.log(prices)
    windows = np.stack([logs[end - 12 : end] for end in range(12, 151)])
    padded = np.pad(windows, ((0, 0), (2, 2)), mode="edge")
    trend = np.stack([np.convolve(row, np.ones(5) / 5, "valid") for row in padded])
    parts = np.concatenate([trend, windows - trend], axis=1)
    known = parts[:-3]
    scaled = (parts - known.mean(axis=0)) / known.std(axis=0)
    ridge = linear_model.Ridge(alpha=CONFIG.linear_ridge * len(known))
    ridge.fit(scaled[:-3], logs[14:])
    expected = np.exp(ridge.predict(scaled[-1:]))
    made = forecast_prices("DLinear", history_of(prices), (3,), CONFIG)
    np.testing.assert_allclose(made.point, expected, rtol=1e-8)


def test_nlinear_follows_the_level():
    """Ten times the prices, ten times the forecast; a map of the bare window would not."""
    prices = walk(200)
    one = forecast_prices("NLinear", history_of(prices), (1, 5), CONFIG)
    ten = forecast_prices("NLinear", history_of(10 * prices), (1, 5), CONFIG)
    np.testing.assert_allclose(ten.point, 10 * one.point)
    np.testing.assert_allclose(ten.lower, 10 * one.lower)


@pytest.mark.parametrize(("name", "tolerance"), [("ARIMA", 0.01), ("exponential smoothing", 0.01)])
def test_statsmodels_baseline_goes_on_with_what_it_fits(name, tolerance):
    config = dataclasses.replace(CONFIG, arima_order=(4, 0, 0), season=8, seasonal_smoothing=True)
    noise = walk(220, deviation=1e-4) / 50
    series = 100 * np.exp(0.1 * np.sin(2 * np.pi * np.arange(220) / 8)) * noise
    made = forecast_prices(name, history_of(series[:200]), (1, 3, 7), config)
    np.testing.assert_allclose(made.point, series[[200, 202, 206]], rtol=tolerance)
    naive = forecast_prices("random walk", history_of(series[:200]), (1, 3, 7), config)
    assert np.abs(naive.point / series[[200, 202, 206]] - 1).max() > 5 * tolerance


def test_arima_finds_the_persistence_of_returns():
    """Returns r[t] = 0.7 r[t-1] + e: the next one is 0.7 of the last, the sum of all 0.7 / 0.3."""
    noise = np.random.Generator(np.random.PCG64(2)).normal(0, 0.01, 800)
    returns = np.zeros(800)
    for row in range(1, 800):
        returns[row] = 0.7 * returns[row - 1] + noise[row]
    prices = 50 * np.exp(np.cumsum(returns))
    config = dataclasses.replace(CONFIG, arima_order=(1, 1, 0), max_history=800)
    made = forecast_prices("ARIMA", history_of(prices), (1, 60), config)
    expected = returns[-1] * np.array([0.7, 0.7 / 0.3])
    np.testing.assert_allclose(np.log(made.point / prices[-1]), expected, rtol=0.25)
    width = np.log(made.upper[0] / made.lower[0]) / (2 * Z90)
    assert width == pytest.approx(0.01, rel=0.1)


def test_prophet_gets_log_prices_and_trading_days(monkeypatch):
    """A stand-in for the library, which few have installed."""
    seen = {}

    class Prophet:
        def __init__(self, **options):
            seen.update(options)

        def fit(self, frame):
            seen["history"] = frame

        def predict(self, frame):
            seen["future"] = frame
            means = np.log([60.0, 70.0])
            bands = {"yhat_lower": means - 0.1, "yhat_upper": means + 0.1}
            return pandas.DataFrame({"ds": frame["ds"], "yhat": means, **bands})

    module = types.SimpleNamespace(Prophet=Prophet)
    monkeypatch.setitem(sys.modules, "prophet", module)
    history = history_of(walk(20))  # its last day is Friday, 2015-01-30
    made = forecast_prices("Prophet", history, (1, 6), CONFIG)
    np.testing.assert_allclose(made.point, [60, 70])
    np.testing.assert_allclose(made.upper, np.array([60, 70]) * np.exp(Z90 * 0.1))
    np.testing.assert_allclose(np.exp(seen["history"]["y"]), history.prices)
    assert seen["future"]["ds"].astype(str).tolist() == ["2015-02-02", "2015-02-09"]
    assert seen["interval_width"] == pytest.approx(0.6827, abs=1e-4)


# ---- All of them


@pytest.mark.parametrize("name", installed_baselines())
def test_interval_holds_its_share(name):
    """Of random walks, nine intervals in ten; ARIMA and smoothing, which are slow, of fewer."""
    count = 40 if name in STATSMODELS else 400
    inside = []
    for seed in range(count):
        prices = walk(160, seed)
        made = forecast_prices(name, history_of(prices[:150]), (1, 5), CONFIG)
        inside.append((made.lower <= prices[[150, 154]]) & (prices[[150, 154]] <= made.upper))
    coverage = np.mean(inside, axis=0)
    # In-sample residuals of 24 weights on 135 rows are too small: the linear maps fall short.
    slack = 0.12 if "Linear" in name or count == 40 else 0.05
    assert (np.abs(coverage - 0.9) < slack).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", installed_baselines())
def test_constant_history_is_forecast_to_stay(name):
    made = forecast_prices(name, history_of(np.full(300, 7.25)), (1, 5), CONFIG)
    for prices in (made.point, made.lower, made.upper):
        assert prices.tolist() == [7.25, 7.25]


@pytest.mark.parametrize(
    ("name", "fewest"),
    [
        *(("random walk", 2), ("drift", 2), ("seasonal naive", 5), ("ARIMA", 13)),
        *(("exponential smoothing", 14), ("DLinear", 29), ("NLinear", 29)),
    ],
)
def test_shortest_history_is_enough_and_a_shorter_one_refused(name, fewest):
    made = forecast_prices(name, history_of(walk(fewest)), (1, 5), CONFIG)
    assert np.isfinite([made.point, made.lower, made.upper]).all()
    message = f"{name} has a history of {fewest - 1} rows; expected at least {fewest}; start later"
    with pytest.raises(ValueError, match=message):
        forecast_prices(name, history_of(walk(fewest - 1)), (1, 5), CONFIG)


def test_what_cannot_be_forecast_is_refused():
    prices = walk(30)
    with pytest.raises(ValueError, match="baseline 'oracle' is unknown; expected random walk, dri"):
        forecast_prices("oracle", history_of(prices), (1,))
    with pytest.raises(ValueError, match=r"horizons \(0, 1\) must be 1 or more"):
        forecast_prices("drift", history_of(prices), (0, 1))
    for wrong in (np.nan, 0.0, -1.0):
        prices[3] = wrong
        with pytest.raises(
            ValueError, match=f"drift has the price {wrong} on 2015-01-08; expected"
        ):
            forecast_prices("drift", history_of(prices), (1,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"season": 0}, "baselines.season 0 must be at least 1"),
        ({"linear_kernel": 24}, "baselines.linear_kernel 24 must be odd; try 25"),
        ({"max_history": 100}, "baselines.max_history 100 must be at least twice linear_window 60"),
        ({"linear_ridge": 0.0}, "baselines.linear_ridge 0.0 must be positive"),
        ({"coverage": 90}, "baselines.coverage 90 must be in .0, 1.; try 0.9"),
    ],
)
def test_config_is_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        BaselineConfig(**changes)


@pytest.mark.parametrize(
    ("name", "module", "mend"),
    [
        ("ARIMA", "statsmodels.tsa.arima.model", r"'jaxmodels\[forecast\]'"),
        (
            "exponential smoothing",
            "statsmodels.tsa.exponential_smoothing.ets",
            r"'jaxmodels\[forecast\]'",
        ),
        ("Prophet", "prophet", "prophet"),
    ],
)
def test_missing_library_is_named(monkeypatch, name, module, mend):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"^{name} needs .* pip install {mend} installs it"):
        forecast_prices(name, history_of(walk(99)), (1,), CONFIG)
