"""A backtest shows every method the past alone, and tells skill from none."""

import os
from functools import partial
from typing import Any

import numpy as np
import pytest

from jaxmodels.shared.data.price_sources import Prices, read_prices
from jaxmodels.shared.data.price_tables import PriceTable
from jaxmodels.shared.data.series import SeriesData, SeriesDataConfig, make_windows
from jaxmodels.shared.forecasting import metrics
from jaxmodels.shared.forecasting.backtest import backtest, model_forecaster
from jaxmodels.shared.forecasting.baselines import (
    BaselineConfig,
    Forecast,
    History,
    installed_baselines,
)
from parity_tests.price_series import CONFIG, NAIVE, history_of, prices_of, walk

# Imported here, before pytest sets its filters of warnings: the import sets some of its own.
pytest.importorskip("statsmodels.tsa.api")

# statsmodels says so when it starts a fit from zeros or stops one early; 150 rows are few.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Non-(stationary|invertible) starting", "ignore:Maximum Likelihood optimization failed"
)


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


def test_backtest_begins_where_it_is_told():
    """Every ticker's first target is its first day of the test span, whatever its own length."""
    prices = prices_of(A=walk(400))
    table = prices.frames["A"]
    prices.frames["B"] = PriceTable(table.dates[100:], {"close": walk(300, 1)})
    origins = []

    def spy(history: History, horizons: tuple[int, ...]) -> Forecast:
        origins.append(history.dates[-1])
        return Forecast(*[history.prices[-1:]] * 3)

    options = {"baselines": (), "models": {"spy": spy}, "spans": 2, "origins_per_span": 10}
    backtest(prices, (1,), test_start=table.dates[340], **options)
    assert {origins[0], origins[20]} == {table.dates[339]}
    with pytest.raises(ValueError, match="no room for 10 origins"):
        backtest(prices, (1,), test_start=table.dates[-1] + 1, **options)


QUANTILES = (0.05, 0.5, 0.95)
HORIZONS = (1, 5, 20)


def windows_of(prices: Prices, **changes: Any) -> SeriesData:
    features = ("log_return", "rsi_5")
    config = SeriesDataConfig(window=10, horizons=HORIZONS, features=features, **changes)
    return make_windows(prices, config)


def backtest_model(
    prices: Prices, horizons: tuple[int, ...], data: SeriesData, predict: Any, **options: Any
) -> list[dict[str, Any]]:
    """Rows of the random walk and of "model", in turn, over the test span of `data`."""
    models = {"model": model_forecaster(predict, data, QUANTILES)}
    chosen = {"spans": 1, "origins_per_span": 12, "test_start": data.test_start} | options
    return backtest(prices, horizons, baselines=(), models=models, **chosen)


def test_a_model_that_foretells_no_move_is_the_random_walk():
    """Log returns of zero give its row to the bit, but for the interval, which has no width."""
    prices = prices_of(A=walk(400), B=walk(400, 1))
    data = windows_of(prices, scaler="none")

    def predict(inputs: np.ndarray) -> np.ndarray:
        return np.zeros((len(inputs), 3, 3), np.float32)

    rows = backtest_model(prices, (5, 20), data, predict)
    assert len(rows) == 2 * 2 * 2
    for of_walk, of_model in zip(rows[::2], rows[1::2], strict=True):
        assert of_model == of_walk | {"method": "model", "coverage": 0.0}
    rows = backtest_model(prices, (5, 20), data, lambda x: predict(x) + 1e-6)
    for of_walk, of_model in zip(rows[::2], rows[1::2], strict=True):  # the control
        assert of_model["mae"] != of_walk["mae"]


def test_a_model_is_shown_its_own_windows_and_scored_at_the_horizons_asked_for():
    """An oracle that knows its windows by heart has skill 1, whatever the order of horizons."""
    prices = prices_of(A=walk(400))
    data = windows_of(prices)
    known = data.test.inputs()

    def predict(inputs: np.ndarray) -> np.ndarray:
        (place,) = np.flatnonzero((known == inputs).all(axis=(1, 2)))
        return np.repeat(data.test.targets[place, None, :, None], 3, axis=-1)  # (1, H, Q)

    for horizons in ((20, 1), HORIZONS):
        rows = backtest_model(prices, horizons, data, predict)
        assert [row["skill"] for row in rows[1::2]] == pytest.approx([1] * len(horizons), abs=1e-5)


def test_a_models_interval_is_that_of_its_outer_quantiles():
    prices = prices_of(A=walk(400))
    close = prices.frames["A"].columns["close"]
    data = windows_of(prices, scaler="none")
    outputs = np.broadcast_to([-0.02, 0.01, 0.03], (1, 3, 3))
    made = model_forecaster(lambda inputs: outputs, data, QUANTILES)(history_of(close), (1, 5))
    found = np.stack([made.lower, made.point, made.upper], axis=-1)
    np.testing.assert_allclose(np.log(found / close[-1]), outputs[0, :2], rtol=1e-12)
    rows = backtest_model(prices, (1,), data, lambda inputs: outputs, origins_per_span=79)
    moves = np.diff(np.log(close))[-80:-1]  # from the day before the test span on
    inside = ((moves >= -0.02) & (moves <= 0.03)).mean()
    assert 0.5 < inside < 0.99
    assert rows[1]["coverage"] == pytest.approx(inside)


def test_a_model_refuses_to_forecast_what_it_was_trained_on():
    prices = prices_of(A=walk(400))
    days = prices.frames["A"].dates
    data = windows_of(prices)
    assert data.test_start == days[320]
    run = partial(backtest_model, prices, data=data, predict=lambda x: np.zeros((1, 3, 3)))
    run((1,))
    for early in (days[319], None):  # one day too early, and the last 30 percent
        with pytest.raises(
            ValueError, match=f"trained or validated on; pass test_start={days[320]}"
        ):
            run((1,), test_start=early)
    with pytest.raises(ValueError, match=r"forecasts close at \(1, 5, 20\).*, got close at \(2,\)"):
        run((2,))


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
