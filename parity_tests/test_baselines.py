"""Baselines and metrics have their definitions, and a backtest sees only the past."""

import dataclasses
import os
import sys
import types

import numpy as np
import pandas
import pytest

from jaxmodels.shared import forecast_metrics as metrics
from jaxmodels.shared.backtest import backtest
from jaxmodels.shared.baselines import (
    BaselineConfig,
    Forecast,
    History,
    forecast_prices,
    installed_baselines,
)
from jaxmodels.shared.data.price_sources import Prices, read_prices
from jaxmodels.shared.data.price_tables import PriceTable

# Imported here, before pytest sets its filters of warnings: the import sets some of its own.
pytest.importorskip("statsmodels.tsa.api")

# statsmodels says so when it starts a fit from zeros or stops one early; 150 rows are few.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Non-(stationary|invertible) starting", "ignore:Maximum Likelihood optimization failed"
)

CONFIG = BaselineConfig(season=4, max_history=200, linear_window=12, linear_kernel=5)
Z90 = 1.6448536269514722  # the normal quantile at 0.95
STATSMODELS = ("ARIMA", "exponential smoothing")
NAIVE = ("random walk", "drift", "seasonal naive")


def history_of(prices: np.ndarray) -> History:
    dates = np.busday_offset(np.datetime64("2015-01-05"), np.arange(len(prices)))
    return History(PriceTable(dates, {"close": np.asarray(prices, np.float64)}))


def walk(
    num_rows: int, seed: int = 0, *, drift: float = 0.0, deviation: float = 0.02
) -> np.ndarray:
    steps = np.random.Generator(np.random.PCG64(seed)).normal(drift, deviation, num_rows)
    return 50 * np.exp(np.cumsum(steps))


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
            "statsmodels.tsa.statespace.exponential_smoothing",
            r"'jaxmodels\[forecast\]'",
        ),
        ("Prophet", "prophet", "prophet"),
    ],
)
def test_missing_library_is_named(monkeypatch, name, module, mend):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"^{name} needs .* pip install {mend} installs it"):
        forecast_prices(name, history_of(walk(99)), (1,), CONFIG)


# ---- Metrics


ACTUAL = np.array([10.0, 20.0, 30.0, 40.0])
FORECAST = np.array([12.0, 17.0, 30.0, 44.0])


def test_metrics_by_hand():
    assert metrics.mean_absolute_error(ACTUAL, FORECAST) == 9 / 4
    assert metrics.root_mean_squared_error(ACTUAL, FORECAST) == np.sqrt(29 / 4)
    expected = 100 * (2 / 11 + 3 / 18.5 + 0 + 4 / 42) / 4
    assert metrics.symmetric_percentage_error(ACTUAL, FORECAST) == pytest.approx(expected)
    zeros = np.zeros(2)
    assert metrics.symmetric_percentage_error(zeros, zeros) == 0
    assert metrics.symmetric_percentage_error(zeros, zeros + 1) == 200
    lower, upper = np.array([10, 21, 0, 0]), np.array([11, 22, 30, 39])
    assert metrics.interval_coverage(ACTUAL, lower, upper) == 0.5


def test_scaled_error_is_of_the_history():
    history = np.array([1.0, 2.0, 4.0, 7.0])
    assert metrics.scaled_error(ACTUAL, FORECAST, history) == pytest.approx((9 / 4) / 2)
    assert metrics.scaled_error(ACTUAL, FORECAST, history, season=2) == pytest.approx(9 / 4 / 4)
    assert metrics.scaled_error(ACTUAL, FORECAST, np.ones(5)) is None
    assert metrics.scaled_error(ACTUAL, FORECAST, np.ones(1)) is None


def test_directional_accuracy_counts_what_has_a_direction():
    origin = np.array([11.0, 19.0, 31.0, 40.0])  # up or down, right: no, no, yes, not at all
    assert metrics.directional_accuracy(ACTUAL, FORECAST, origin) == pytest.approx(1 / 3)
    assert metrics.directional_accuracy(ACTUAL, origin, origin) is None


def test_skill_against_a_reference():
    reference = ACTUAL + 4.5
    assert metrics.skill(ACTUAL, FORECAST, reference) == pytest.approx(0.5)
    assert metrics.skill(ACTUAL, reference, FORECAST) == pytest.approx(-1)
    assert metrics.skill(ACTUAL, FORECAST, ACTUAL) is None


def test_pinball_loss_is_scikit_learns():
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.Generator(np.random.PCG64(0))
    actual, forecasts = generator.normal(size=50), generator.normal(size=(50, 3))
    quantiles = np.array([0.1, 0.5, 0.9])
    expected = [
        sklearn_metrics.mean_pinball_loss(actual, forecasts[:, place], alpha=quantile)
        for place, quantile in enumerate(quantiles)
    ]
    assert metrics.pinball_loss(actual, forecasts, quantiles) == pytest.approx(np.mean(expected))


def test_diebold_mariano_of_one_step_is_the_paired_t_test():
    """With Harvey's correction, the two coincide exactly."""
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.Generator(np.random.PCG64(1))
    actual, one, two = generator.normal(size=(3, 40))
    for power in (1, 2):
        ours = metrics.diebold_mariano(actual, one, two, power=power)
        losses = np.abs(actual - one) ** power, np.abs(actual - two) ** power
        assert ours is not None
        np.testing.assert_allclose(ours, stats.ttest_rel(*losses), rtol=1e-12)


def test_diebold_mariano_of_several_steps_by_hand():
    """d = 4, 1, 2, 3 - 2 each: mean 0.5; autocovariances 5/4 and (2.25*-1 ...) / 4."""
    actual, reference = np.zeros(4), np.full(4, 2.0)
    forecast = np.array([4.0, 1.0, 2.0, 3.0])
    differences = np.array([2.0, -1.0, 0.0, 1.0])
    centred = differences - 0.5  # 1.5, -1.5, -0.5, 0.5
    gamma_0, gamma_1 = 5 / 4, (1.5 * -1.5 + -1.5 * -0.5 + -0.5 * 0.5) / 4
    np.testing.assert_allclose(
        [centred @ centred / 4, centred[1:] @ centred[:-1] / 4], [gamma_0, gamma_1]
    )
    statistic = 0.5 / np.sqrt((gamma_0 + 2 * gamma_1) / 4)
    corrected = statistic * np.sqrt((4 + 1 - 2 * 2 + 2 * 1 / 4) / 4)
    made = metrics.diebold_mariano(actual, forecast, reference, horizon=2)
    assert made is not None
    assert made[0] == pytest.approx(corrected)
    stats = pytest.importorskip("scipy.stats")
    assert made[1] == pytest.approx(2 * stats.t(3).sf(corrected))


def test_diebold_mariano_survives_a_negative_variance():
    """Losses that alternate have a negative two-step variance by the paper's own estimate."""
    forecast = np.array([1.0, 3.1, 1.0, 3.0, 1.2, 3.0])
    made = metrics.diebold_mariano(np.zeros(6), forecast, np.full(6, 2.0), horizon=2)
    assert made is not None
    assert np.isfinite(made).all()
    assert 0 <= made[1] <= 1


def test_diebold_mariano_has_its_size_and_its_sign():
    """Of equally good forecasts, one test in twenty is below 0.05, overlapping errors included."""
    generator = np.random.Generator(np.random.PCG64(3))
    shocks = generator.normal(size=(600, 2, 82))
    errors = shocks[..., 2:] + shocks[..., 1:-1] + shocks[..., :-2]  # of three steps ahead
    zeros = np.zeros(80)
    tests = [metrics.diebold_mariano(zeros, one, two, horizon=3) for one, two in errors]
    p_values = np.array([test[1] for test in tests if test])
    assert len(p_values) == 600
    assert 0.02 < (p_values < 0.05).mean() < 0.09
    better = metrics.diebold_mariano(zeros, errors[0, 0] / 4, errors[0, 1], horizon=3)
    assert better is not None
    assert better[0] < 0
    assert better[1] < 0.01


@pytest.mark.parametrize(
    ("count", "horizon", "same"), [(1, 1, False), (4, 4, False), (9, 1, True), (9, 3, True)]
)
def test_diebold_mariano_without_evidence_is_none(count, horizon, same):
    actual = np.arange(count, dtype=np.float64)
    forecast = actual + 1 if same else actual + np.arange(count)
    assert metrics.diebold_mariano(actual, forecast, actual + 1, horizon=horizon) is None


# ---- Backtests


def prices_of(**closes: np.ndarray) -> Prices:
    frames = {name: history_of(close).table for name, close in closes.items()}
    return Prices("made", tuple(frames), frames, ())


def test_backtest_shows_each_method_the_past_alone():
    """A model is handed the rows up to its origin, and is scored on what comes after."""
    prices = prices_of(A=walk(400))
    table = prices.frames["A"]
    seen: list[History] = []

    def spy(history: History, horizons: tuple[int, ...]) -> Forecast:
        seen.append(history)
        point = np.full(len(horizons), history.prices[-1])
        return Forecast(point, point - 1, point + 1)

    rows = backtest(
        *(prices, (1, 5)), baselines=(), models={"spy": spy}, spans=2, origins_per_span=10
    )
    assert len(seen) == 20
    bounds = table.dates[[279, 279 + 60, 399]]
    assert [seen[0].dates[-1], seen[10].dates[-1]] == list(bounds[:2])
    for number, history in enumerate(seen):
        known = len(history.dates)
        np.testing.assert_array_equal(history.prices, table.columns["close"][:known])
        assert not np.shares_memory(history.prices, table.columns["close"])
        # From one row before the span, so that the first target is its first row, to its end.
        assert bounds[number // 10] <= history.dates[-1]
        assert table.dates[known - 1 + 5] <= bounds[number // 10 + 1]
    spans = [f"{seen[k].dates[-1]} to {seen[k + 9].dates[-1]}" for k in (0, 10)]
    assert [row["span"] for row in rows[::4]] == [*spans, "all"]
    of_spy = [row for row in rows if row["method"] == "spy"]
    assert [row["mae"] for row in of_spy] == [
        row["mae"] for row in rows if row["method"] == "random walk"
    ]
    ends = [len(history.dates) - 1 for history in seen[:10]]
    expected = np.abs(table.columns["close"][np.array(ends) + 5] - table.columns["close"][ends])
    assert of_spy[1]["mae"] == pytest.approx(expected.mean())
    assert of_spy[1]["coverage"] == (expected <= 1).mean()
    history = table.columns["close"][: ends[0] + 1]
    assert of_spy[1]["mase"] == pytest.approx(expected.mean() / np.abs(np.diff(history)).mean())


def test_backtest_counts_the_forecasts_that_overlap():
    """Two rows apart, five rows ahead: the p-value must allow for three forecasts at a time."""
    prices = prices_of(A=walk(400))
    close = prices.frames["A"].columns["close"]
    origins = []

    def model(history: History, horizons: tuple[int, ...]) -> Forecast:
        origins.append(len(history.prices) - 1)
        return Forecast(*[1.01 * history.prices[-1:]] * 3)

    (_, row) = backtest(
        *(prices, (5,)), baselines=(), models={"m": model}, spans=1, origins_per_span=50
    )
    assert set(np.diff(origins)) == {2}
    reference, actual = close[origins], close[np.array(origins) + 5]
    made = metrics.diebold_mariano(actual, 1.01 * reference, reference, horizon=3)
    assert made is not None
    assert row["p_value"] == pytest.approx(made[1])


def test_backtest_tells_skill_from_none():
    """An oracle has skill 1; of a random walk, no baseline has any that counts."""
    prices = prices_of(A=walk(600, 4))
    close = prices.frames["A"].columns["close"]

    def oracle(history: History, horizons: tuple[int, ...]) -> Forecast:
        point = close[len(history.prices) - 1 + np.array(horizons)]
        return Forecast(point, point, point)

    baselines = ("drift", "DLinear", "NLinear")
    models = {"oracle": oracle}
    rows = backtest(prices, (1, 5), config=CONFIG, baselines=baselines, models=models, spans=2)
    overall = [row for row in rows if row["span"] == "all"]
    assert len(overall) == 2 * 5
    assert all(row["origins"] == 40 for row in overall)
    for row in overall:
        if row["method"] == "oracle":
            assert (row["skill"], row["directional_accuracy"], row["coverage"]) == (1, 1, 1)
            assert row["p_value"] < 1e-6
        elif row["method"] == "random walk":
            assert (row["skill"], row["directional_accuracy"], row["p_value"]) == (0, None, None)
        else:
            assert row["skill"] < 0.1
            assert row["skill"] < 0 or row["p_value"] > 0.05


def test_backtest_finds_a_season():
    """Where there is structure, whoever looks for it beats the random walk beyond doubt."""
    config = BaselineConfig(season=20, max_history=400)
    baselines = ("seasonal naive", "DLinear", "NLinear")
    rows = backtest(read_prices("seasonal"), (1, 5), config=config, baselines=baselines, spans=1)
    assert {row["span"] for row in rows} == {rows[0]["span"]}
    for row in rows:
        if row["method"] != "random walk":
            assert row["skill"] > 0.7, row
            assert row["p_value"] < 1e-4, row


@pytest.mark.slow
def test_backtest_takes_every_baseline_by_default():
    rows = backtest(read_prices("sample"), (1, 5), spans=2, origins_per_span=4)
    assert {row["method"] for row in rows} == set(installed_baselines())
    assert set(NAIVE) < {row["method"] for row in rows}
    numbers = [row[name] for row in rows for name in ("mae", "rmse", "smape", "mase", "coverage")]
    assert np.isfinite(numbers).all()


def test_backtest_refuses_what_does_not_fit():
    prices = prices_of(A=walk(100))
    with pytest.raises(ValueError, match="A: a span of 10 rows has no room for 20 origins with"):
        backtest(prices, (1, 5), baselines=())
    with pytest.raises(ValueError, match="A has no column open; expected one of close"):
        backtest(prices, (1,), price="open", baselines=())
    with pytest.raises(
        ValueError, match=r"spans 0, origins_per_span 20, test_fraction 0\.3 must be"
    ):
        backtest(prices, (1,), spans=0)
    with pytest.raises(ValueError, match="baseline 'oracle' is unknown"):
        backtest(prices, (1,), baselines=("oracle",), origins_per_span=5)


@pytest.mark.real
def test_real_prices_are_hard_to_beat():
    """Honest tables look like this: a day ahead, nothing classical has skill on a stock."""
    if "JAXMODELS_DATA" not in os.environ:
        pytest.skip("JAXMODELS_DATA is not set")
    prices = read_prices(os.environ["JAXMODELS_DATA"] + "/prices", tickers=("AAPL",))
    rows = backtest(prices, (1, 5), baselines=("drift", "seasonal naive", "DLinear", "NLinear"))
    for row in rows:
        if row["span"] == "all" and row["method"] == "random walk":
            assert 0.8 < row["coverage"] < 1
        elif row["span"] == "all":
            assert row["skill"] < 0.05 or row["p_value"] > 0.05
