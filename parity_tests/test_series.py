"""Windows hold what they say: the past of one ticker, and targets of their own span."""

import dataclasses
import os
from itertools import pairwise

import numpy as np
import pandas
import pytest

from jaxmodels.shared.data import series_features
from jaxmodels.shared.data.price_sources import Prices, read_prices
from jaxmodels.shared.data.price_tables import PriceTable
from jaxmodels.shared.data.series import (
    SeriesData,
    SeriesDataConfig,
    Windows,
    load_series,
    make_windows,
)
from jaxmodels.shared.data.series_features import compute_features

FEATURES = (
    *("return", "log_return", "moving_average_7", "volatility_5", "rsi_6", "macd"),
    *("volume_change", "close", "volume"),
)
ROWS = 300  # training ends after row 209, validation after 239
CONFIG = SeriesDataConfig(features=FEATURES, window=11, horizons=(1, 3, 8))


def make_table(num_rows: int, seed: int = 0, *, start: str = "2015-01-05") -> PriceTable:
    generator = np.random.Generator(np.random.PCG64(seed))
    close = 50 * np.exp(np.cumsum(generator.normal(0, 0.02, num_rows)))
    volume = generator.integers(0, 1000, num_rows).astype(np.float64)
    dates = np.busday_offset(np.datetime64(start), np.arange(num_rows))
    return PriceTable(dates, {"close": close, "volume": volume})


def prices_of(**frames: PriceTable) -> Prices:
    return Prices("made", tuple(frames), dict(frames), ())


def spans(data: SeriesData) -> list[Windows]:
    return [data.train, data.validation, data.test]


# ---- Features


def close_of(num_rows: int = 60) -> np.ndarray:
    return make_table(num_rows).columns["close"]


def wilder(prices: np.ndarray, length: int) -> list[float]:
    """The relative strength index as Wilder works it out by hand."""
    changes = [later - earlier for earlier, later in pairwise(prices)]
    gain = sum(max(change, 0) for change in changes[:length]) / length
    loss = sum(max(-change, 0) for change in changes[:length]) / length
    index = [100 - 100 / (1 + gain / loss)]
    for change in changes[length:]:
        gain = (gain * (length - 1) + max(change, 0)) / length
        loss = (loss * (length - 1) + max(-change, 0)) / length
        index.append(100 - 100 / (1 + gain / loss))
    return [np.nan] * length + index


def pandas_macd(close: pandas.Series) -> np.ndarray:
    fast, slow = (close.ewm(span=span, adjust=False).mean().to_numpy() for span in (12, 26))
    return np.where(np.arange(len(close)) >= 25, (fast - slow) / close.to_numpy(), np.nan)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("return", lambda close: close.pct_change()),
        ("log_return", lambda close: np.log(close).diff()),
        ("moving_average_7", lambda close: close / close.rolling(7).mean() - 1),
        ("volatility_5", lambda close: np.log(close).diff().rolling(5).std(ddof=0)),
        ("rsi_6", lambda close: wilder(close.to_numpy(), 6)),
        ("macd", pandas_macd),
        ("close", lambda close: close),
    ],
)
def test_feature_has_its_definition(name, expected):
    table = make_table(60)
    (ours,) = compute_features(table, (name,), price="close").T
    np.testing.assert_allclose(
        ours, expected(pandas.Series(table.columns["close"])), rtol=1e-10, atol=1e-13
    )


def test_volume_change_takes_a_day_without_trade():
    change = series_features.volume_change(np.array([9.0, 0.0, 99.0]))
    np.testing.assert_allclose(change, [np.nan, -np.log(10), np.log(100)])


def test_rsi_at_its_ends():
    up, flat = np.arange(1.0, 9.0), np.full(8, 5.0)
    assert set(series_features.relative_strength(up, 3)[3:]) == {100.0}
    assert set(series_features.relative_strength(up[::-1], 3)[3:]) == {0.0}
    assert set(series_features.relative_strength(flat, 3)[3:]) == {50.0}


@pytest.mark.parametrize("num_rows", [1, 2, 5, 30])
def test_short_series_has_no_feature_yet(num_rows):
    names = ("log_return", "moving_average_7", "volatility_9", "rsi_9", "macd")
    features = compute_features(make_table(num_rows), names, price="close")
    assert features.shape == (num_rows, 5)
    warm_up = np.minimum([1, 6, 9, 9, 25], num_rows)
    np.testing.assert_array_equal(np.isnan(features).sum(axis=0), warm_up)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rsi", "TSLA: feature 'rsi' is unknown; expected .*rsi_N.* or a column .close, volume"),
        ("macd_9", "feature 'macd_9' is unknown"),
        ("sentiment", "feature 'sentiment' is unknown"),
        ("rsi_0", "feature 'rsi_0' has no length; try rsi_14"),
    ],
)
def test_unknown_feature_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        compute_features(make_table(9), (name,), price="close", where="TSLA")


def test_hole_in_a_column_is_refused_by_day():
    table = make_table(99)
    table.columns["sentiment"] = np.where(np.arange(99) % 50 == 3, np.nan, 1.0)
    config = dataclasses.replace(CONFIG, features=("sentiment",))
    with pytest.raises(
        ValueError, match=r"TSLA 2015-01-08, column sentiment: no number \(and 1 more\)"
    ):
        make_windows(prices_of(TSLA=table), config)
    del table.columns["volume"]
    with pytest.raises(ValueError, match="TSLA has no column volume; expected one of close, sent"):
        compute_features(table, ("volume_change",), price="close", where="TSLA")


@pytest.mark.filterwarnings("ignore:overflow")
def test_feature_that_overflows_is_refused_by_day():
    table = make_table(ROWS)
    table.columns["close"][50:52] = 1e-200, 1e200
    with pytest.raises(ValueError, match=f"A {table.dates[51]}: a feature of .* is too large to"):
        make_windows(prices_of(A=table), CONFIG)


# ---- No future value reaches an input


def with_another_future(table: PriceTable, row: int) -> PriceTable:
    """The table with every value after the row made huge and erratic."""
    generator = np.random.Generator(np.random.PCG64(5))
    columns = {name: values.copy() for name, values in table.columns.items()}
    for values in columns.values():
        values[row + 1 :] *= 10.0 ** generator.uniform(3, 9, len(values) - row - 1)
    return PriceTable(table.dates, columns)


def future_that_leaks(table: PriceTable, row: int, config: SeriesDataConfig) -> list[str]:
    """What differs up to the row if the future does; a window after it must differ."""
    data = make_windows(prices_of(A=table), config)
    other = make_windows(prices_of(A=with_another_future(table, row)), config)
    leaks = []
    for name in ("train", "validation", "test"):
        ours, theirs = getattr(data, name), getattr(other, name)
        past = ours.dates <= table.dates[row]
        for what, one, two in (
            ("inputs", ours.inputs(), theirs.inputs()),
            ("origin prices", ours.origin_prices, theirs.origin_prices),
        ):
            if one[past].tobytes() != two[past].tobytes():
                leaks.append(f"{name} {what}")
            assert not past.size or past.all() or not np.array_equal(one[~past], two[~past])
    for scaler in ("input_scaler", "target_scaler"):
        if not all(
            np.array_equal(
                getattr(getattr(data, scaler), part), getattr(getattr(other, scaler), part)
            )
            for part in ("shift", "scale")
        ):
            leaks.append(scaler)
    return leaks


@pytest.mark.parametrize("scaler", ["standard", "minmax", "none"])
@pytest.mark.parametrize("row", [209, 215, 239, 260, 298])
def test_no_future_value_reaches_an_input_or_a_scaler(row, scaler):
    config = dataclasses.replace(CONFIG, scaler=scaler)
    data = make_windows(prices_of(A=make_table(ROWS)), config)
    assert make_table(ROWS).dates[210] == data.validation_start
    assert future_that_leaks(make_table(ROWS), row, config) == []


@pytest.mark.parametrize("row", [40, 100, 208])
def test_no_future_value_reaches_an_input_within_training(row):
    """The scaler sees the whole training span, so only unscaled inputs can be compared here."""
    config = dataclasses.replace(CONFIG, scaler="none")
    assert future_that_leaks(make_table(ROWS), row, config) == []
    scaled = dataclasses.replace(CONFIG, scaler="standard")
    assert "input_scaler" in future_that_leaks(make_table(ROWS), row, scaled)


@pytest.mark.parametrize("row", [30, 150])
@pytest.mark.parametrize("name", FEATURES)
def test_no_feature_reads_past_its_row(name, row):
    """Each with NaN for a future, which a sum or a maximum over it could not hide."""
    table = make_table(ROWS)
    function, column, _ = series_features.FEATURES.get(
        name.rstrip("_1234567890"), (lambda values: values, name, False)
    )
    length = [int(name.rpartition("_")[2])] if name[-1].isdigit() else []
    values = table.columns[column or "close"]
    future = values.copy()
    future[row + 1 :] = np.nan
    before, after = function(values, *length), function(future, *length)
    assert np.isfinite(before[row])
    assert before[: row + 1].tobytes() == after[: row + 1].tobytes()


PEEKS = {
    "tomorrow": lambda prices: np.append(prices[1:], prices[-1]),
    "centred": lambda prices: np.convolve(prices, np.ones(5) / 5, "same"),
    "of the whole": lambda prices: prices / prices.mean(),
}


@pytest.mark.parametrize("peek", PEEKS)
def test_a_feature_that_peeks_is_caught(monkeypatch, peek):
    """The negative control."""
    row = (PEEKS[peek], None, False)
    monkeypatch.setitem(series_features.FEATURES, "peek", row)
    config = dataclasses.replace(CONFIG, features=("peek",), scaler="none")
    assert "test inputs" in future_that_leaks(make_table(ROWS), 260, config)


def test_a_window_is_what_a_reader_of_the_past_would_make():
    """Each test window, from the table cut off at its origin, to the bit."""
    table = make_table(ROWS)
    data = make_windows(prices_of(A=table), CONFIG)
    inputs = data.test.inputs()
    for place, day in enumerate(data.test.dates):
        known = int(np.searchsorted(table.dates, day)) + 1
        columns = {name: values[:known].copy() for name, values in table.columns.items()}
        newest = data.newest_inputs(PriceTable(table.dates[:known], columns))
        np.testing.assert_array_equal(newest[0], inputs[place])
    with pytest.raises(ValueError, match="a table of 30 rows has no whole window of 11 rows"):
        data.newest_inputs(make_table(30))


# ---- Splits


@pytest.mark.parametrize("horizons", [(1,), (1, 3, 8), (5,)])
def test_every_target_lies_in_the_span_of_its_window(horizons):
    table = make_table(ROWS)
    config = dataclasses.replace(CONFIG, horizons=horizons)
    data = make_windows(prices_of(A=table), config)
    bounds = [table.dates[0], data.validation_start, data.test_start, table.dates[-1] + 1]
    assert bounds[1:3] == [table.dates[210], table.dates[240]]
    first_origin = 25 + config.window - 1  # 25 rows before the first MACD
    counts = [210 - first_origin - 1, 30, 60]
    for split, start, stop, count in zip(spans(data), bounds[:-1], bounds[1:], counts, strict=True):
        origins = np.searchsorted(table.dates, split.dates)
        assert (table.dates[origins + 1] >= start).all()
        assert (table.dates[origins + horizons[-1]] < stop).all()
        assert len(split) == count - horizons[-1] + 1  # no fewer than the boundaries cost


def test_windows_hold_the_rows_they_name():
    tables = {"A": make_table(120, 1), "B": make_table(90, 2, start="2015-02-16")}
    config = SeriesDataConfig(
        features=("close", "volume"), window=7, horizons=(2, 5), target="price", scaler="none"
    )
    data = make_windows(prices_of(**tables), config)
    assert data.tickers == ("A", "B")
    for split in spans(data):
        inputs = split.inputs()
        assert (inputs.shape, inputs.dtype) == ((len(split), 7, 2), np.float32)
        assert (split.targets.shape, split.targets.dtype) == ((len(split), 2), np.float32)
        assert set(split.tickers) == {0, 1}
        for place in range(len(split)):
            table = tables[data.tickers[split.tickers[place]]]
            row = int(np.searchsorted(table.dates, split.dates[place]))
            close, volume = table.columns["close"], table.columns["volume"]
            expected = np.stack([close, volume], axis=-1)[row - 6 : row + 1]
            np.testing.assert_array_equal(inputs[place], expected.astype(np.float32))
            np.testing.assert_array_equal(
                split.targets[place], close[[row + 2, row + 5]].astype(np.float32)
            )
            assert split.origin_prices[place] == close[row]
    some = np.array([3, 1])
    np.testing.assert_array_equal(data.train.inputs(some), data.train.inputs()[some])
    np.testing.assert_array_equal(data.train.inputs(slice(2, 4)), data.train.inputs()[2:4])


def test_spans_are_of_the_calendar():
    """A ticker listed late is tested on the same days as the others."""
    old, young = make_table(ROWS), make_table(120, 1, start=str(make_table(ROWS).dates[180]))
    both = make_windows(prices_of(OLD=old, YOUNG=young), CONFIG)
    alone = make_windows(prices_of(OLD=old), CONFIG)
    assert both.test_start == alone.test_start
    of_old = both.test.dates[both.test.tickers == 0]
    of_young = both.test.dates[both.test.tickers == 1]
    np.testing.assert_array_equal(of_old, of_young)
    assert set(both.train.tickers) == {0}


def test_empty_spans_are_allowed():
    config = dataclasses.replace(CONFIG, validation_fraction=0, test_fraction=0)
    data = make_windows(prices_of(A=make_table(100)), config)
    assert [len(split) for split in spans(data)] == [100 - 25 - 10 - 8, 0, 0]
    assert data.test.inputs().shape == (0, 11, len(FEATURES))


# ---- Scalers and targets


@pytest.mark.parametrize("scaler", ["standard", "minmax"])
def test_scalers_are_fitted_on_the_training_span(scaler):
    tables = {"A": make_table(ROWS, 1), "B": make_table(ROWS, 2)}
    data = make_windows(prices_of(**tables), dataclasses.replace(CONFIG, scaler=scaler))
    features = [compute_features(t, FEATURES, price="close")[25:210] for t in tables.values()]
    seen = np.concatenate(features)  # of both tickers: the scaler is pooled
    if scaler == "standard":
        shift, scale = seen.mean(axis=0), seen.std(axis=0, ddof=0)
        np.testing.assert_allclose(data.train.targets.mean(axis=0), 0, atol=1e-6)
        np.testing.assert_allclose(data.train.targets.std(axis=0), 1, rtol=1e-6)
    else:
        shift, scale = seen.min(axis=0), seen.max(axis=0) - seen.min(axis=0)
        assert (data.train.targets.min(axis=0) == 0).all()
        np.testing.assert_allclose(data.train.targets.max(axis=0), 1)
    np.testing.assert_allclose(data.input_scaler.shift, shift)
    np.testing.assert_allclose(data.input_scaler.scale, scale)
    values = np.arange(18.0).reshape(2, 9)
    np.testing.assert_allclose(data.input_scaler.inverse(data.input_scaler(values)), values)


@pytest.mark.parametrize("scaler", ["standard", "minmax", "none"])
@pytest.mark.parametrize("target", ["log_return", "return", "price"])
def test_targets_lead_back_to_prices(target, scaler):
    table = make_table(ROWS)
    config = dataclasses.replace(CONFIG, target=target, scaler=scaler)
    split = (data := make_windows(prices_of(A=table), config)).test
    rows = np.searchsorted(table.dates, split.dates)
    later = table.columns["close"][rows[:, None] + np.array(config.horizons)]  # (N, H)
    prices = data.to_prices(split.targets, split.origin_prices)
    assert prices.dtype == np.float64
    np.testing.assert_allclose(prices, later, rtol=1e-6)
    quantiles = np.stack([split.targets - 1, split.targets, split.targets + 1], axis=-1)
    of_quantiles = data.to_prices(quantiles, split.origin_prices)  # (N, H, 3)
    np.testing.assert_allclose(of_quantiles[..., 1], later, rtol=1e-6)
    assert (np.diff(of_quantiles, axis=-1) > 0).all()


def test_targets_have_their_definition():
    table = make_table(ROWS)
    close = table.columns["close"]
    for target, expected in (
        ("log_return", lambda row: np.log(close[row + 3] / close[row])),
        ("return", lambda row: close[row + 3] / close[row] - 1),
    ):
        config = dataclasses.replace(CONFIG, target=target, scaler="none", horizons=(3,))
        test = make_windows(prices_of(A=table), config).test
        row = int(np.searchsorted(table.dates, test.dates[0]))
        np.testing.assert_allclose(test.targets[0, 0], expected(row), rtol=1e-5)


@pytest.mark.parametrize("scaler", ["standard", "minmax", "none"])
def test_constant_series_stays_finite(scaler):
    table = make_table(ROWS)
    flat = PriceTable(table.dates, {"close": np.full(ROWS, 0.1), "volume": np.zeros(ROWS)})
    data = make_windows(prices_of(A=flat), dataclasses.replace(CONFIG, scaler=scaler))
    for split in spans(data):
        assert np.isfinite(split.inputs()).all()
        np.testing.assert_array_equal(split.targets, 0)
        np.testing.assert_allclose(data.to_prices(split.targets, split.origin_prices), 0.1)
    if scaler != "none":
        np.testing.assert_array_equal(data.test.inputs(), 0)


# ---- What does not fit


@pytest.mark.parametrize("num_rows", [1, 2, 43])
def test_window_longer_than_the_series_is_refused(num_rows):
    early = min(num_rows, 25)
    message = (
        rf"A has {num_rows} rows, and the first {early} lack .* expected 19 after them, for .*"
    )
    with pytest.raises(ValueError, match=message) as caught:
        make_windows(prices_of(A=make_table(num_rows)), CONFIG)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation_fraction": 0.01}, "no validation window lies within its span"),
        ({"test_fraction": 0.02}, "no test window lies within its span"),
        ({"validation_fraction": 0.5, "test_fraction": 0.45}, "no train window .*read more days"),
        ({"price": "open"}, "A has no column open; expected one of close, volume"),
    ],
)
def test_span_without_a_window_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_windows(prices_of(A=make_table(ROWS)), dataclasses.replace(CONFIG, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "close"}, "data.target 'close' must be one of log_return, return, price"),
        ({"scaler": "robust"}, "data.scaler 'robust' must be standard, minmax or none"),
        ({"features": ()}, "data.features .* must be one or more different names"),
        ({"features": ("macd", "macd")}, "data.features .* must be one or more different"),
        ({"window": 0}, "data.window 0 must be at least 1"),
        ({"horizons": ()}, "data.horizons .* must ascend, from 1 or more; try 1 5"),
        ({"horizons": (0, 1)}, "data.horizons .* must ascend"),
        ({"horizons": (5, 1)}, "data.horizons .* must ascend"),
        ({"horizons": (1, 1)}, "data.horizons .* must ascend"),
        ({"test_fraction": 1.0}, "data.test_fraction 1.0 must be in"),
        ({"validation_fraction": -0.1}, "data.validation_fraction -0.1 must be in"),
        ({"validation_fraction": 0.5, "test_fraction": 0.5}, "leave no training span"),
    ],
)
def test_config_is_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        SeriesDataConfig(**changes)


# ---- Sources


@pytest.mark.parametrize("source", ["sample", "seasonal", "co2"])
def test_source_is_cut_into_windows(source):
    if source == "co2":
        pytest.importorskip("statsmodels")
    data = load_series(source, SeriesDataConfig(features=("log_return", "rsi_14")))
    assert data.source == read_prices(source).source
    assert data.train.inputs().shape[1:] == (60, 2)
    assert min(len(split) for split in spans(data)) > 50


@pytest.mark.real
def test_real_prices_are_cut_into_windows():
    if "JAXMODELS_DATA" not in os.environ:
        pytest.skip("JAXMODELS_DATA is not set")
    folder = os.environ["JAXMODELS_DATA"] + "/prices"
    data = load_series(folder, SeriesDataConfig(), tickers=("AAPL", "MSFT"))
    # 2,768 days: 1,937 to train, 277 to validate, 554 to test, and 20 days ahead in each.
    assert [len(split) for split in spans(data)] == [2 * 1857, 2 * 258, 2 * 535]
    assert str(data.test_start) == "2021-10-18"
    daily_moves = data.target_scaler.scale[0]
    assert 0.01 < daily_moves < 0.03
