"""The figures of a forecaster show the numbers they are given, also where those are awkward."""

import numpy as np
import pytest

from jaxmodels.shared.data.price_sources import Prices
from jaxmodels.shared.forecasting.backtest import backtest
from jaxmodels.shared.forecasting.baselines import Forecast
from jaxmodels.shared.plots import forecasts as plots
from jaxmodels.shared.plots.figures import BLUE, INK, VERMILION
from parity_tests.pixels import contains_colour, pixels_of
from parity_tests.price_series import CONFIG, history_of, walk

DATES = np.busday_offset(np.datetime64("2020-01-06"), np.arange(300))
ACTUAL = walk(300)
QUANTILES = (0.05, 0.5, 0.95)
FORECASTS = ACTUAL[:, None] * np.array([0.9, 1.01, 1.1])


def rows_of(*tickers: str, spans: int = 3, horizons: tuple[int, ...] = (1, 5)) -> list[dict]:
    """A backtest of a model that adds a thousandth to the last price, and one that adds a half."""
    frames = {name: history_of(walk(400, seed)).table for seed, name in enumerate(tickers)}

    def forecaster(factor):
        def forecast(history, horizons):
            point = np.full(len(horizons), history.prices[-1] * factor)
            return Forecast(point, point / 1.1, point * 1.1)

        return forecast

    models = {"$hy model": forecaster(1.001), "wild model": forecaster(1.5)}
    return backtest(
        Prices("made", tickers, frames, ()),
        horizons,
        config=CONFIG,
        baselines=("drift", "NLinear"),
        models=models,
        spans=spans,
        origins_per_span=5,
    )


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The figures, which are kept instead of written."""
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    return figures


@pytest.mark.parametrize("count", [1, 2, 300])
def test_forecasts_show_what_came_and_the_band(tmp_path, count):
    arguments = DATES[:count], ACTUAL[:count], FORECASTS[:count], QUANTILES
    plots.plot_forecasts(*arguments, tmp_path / "new" / "f.png", title="a run", horizon=5)
    array = pixels_of(tmp_path / "new" / "f.png")
    assert contains_colour(array, INK)
    assert contains_colour(array, VERMILION)
    assert contains_colour(array[:300], "#cce3f0") == (count > 1)  # one day has no width


def test_forecasts_are_the_median_and_count_what_the_band_holds(drawn):
    actual = ACTUAL.copy()
    actual[:75] *= 2  # a quarter is far above the band
    plots.plot_forecasts(DATES, actual, FORECASTS, QUANTILES, "unused", title="t", horizon=1)
    (axes,) = drawn[0].axes
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), actual)
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), FORECASTS[:, 1])
    labels = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert "5% to 95% band, holds 75%" in labels
    assert drawn[0].get_suptitle() == "t: forecasts 1 row ahead"


def test_error_by_horizon_is_relative_to_the_random_walk(drawn):
    rows = rows_of("A", "B")
    plots.plot_error_by_horizon(rows, "unused", title="t")
    lines = {line.get_label(): line.get_ydata() for line in drawn[0].axes[0].lines}
    assert list(lines)[-1] == "random walk"
    for horizon, found in zip((1, 5), lines["NLinear"], strict=True):
        own = [r for r in rows if r["span"] == "all" and r["horizon"] == horizon]
        mae = {(r["ticker"], r["method"]): r["mae"] for r in own}
        ratios = [mae[ticker, "NLinear"] / mae[ticker, "random walk"] for ticker in "AB"]
        assert found == pytest.approx(np.mean(ratios))
    wild = next(label for label in lines if label.startswith("wild model (up to "))
    assert list(lines[wild]) == [1.5, 1.5]  # on the edge, and its legend says so
    widths = {line.get_label(): line.get_linewidth() for line in drawn[0].axes[0].lines}
    assert widths[wild] > widths["NLinear"]


@pytest.mark.parametrize("quantity", ["skill", "mae"])
def test_backtest_has_a_dot_a_span_and_a_ring_for_all(drawn, quantity):
    rows = rows_of("A")
    plots.plot_backtest(rows, "unused", title="t", quantity=quantity)
    methods = ["drift", "NLinear", "$hy model", "wild model"]
    methods = methods if quantity == "skill" else ["random walk", *methods]
    for axes, horizon in zip(drawn[0].axes, (1, 5), strict=True):
        own = [r for r in rows if r["horizon"] == horizon]
        spans = list(dict.fromkeys(row["span"] for row in own))
        assert len(spans) == 4
        for line, span in zip(axes.lines, spans, strict=False):
            assert line.get_label() == ("all spans" if span == "all" else span)
            values = {r["method"]: r[quantity] for r in own if r["span"] == span}
            expected = [max(values[name], -0.5) for name in methods]
            assert list(line.get_xdata()) == pytest.approx(expected)
        assert axes.get_xlabel().endswith("(worse than -0.5 at the edge)" * (quantity == "skill"))


@pytest.mark.parametrize(
    ("tickers", "spans", "horizons"),
    [(("A",), 1, (1,)), (("A",), 3, (1, 5)), (("A", "B"), 6, (1, 2, 3, 4, 5))],
)
def test_backtest_figures_are_whole(tmp_path, tickers, spans, horizons):
    rows = rows_of(*tickers, spans=spans, horizons=horizons)
    plots.plot_error_by_horizon(rows, tmp_path / "e.png", title="a title that is long " * 9)
    assert contains_colour(pixels_of(tmp_path / "e.png"), plots.MODEL_COLOURS[0])
    for quantity in ("skill", "mae"):
        path = tmp_path / f"{quantity}.png"
        plots.plot_backtest(rows, path, title="run", quantity=quantity)
        assert contains_colour(pixels_of(path), BLUE)
    without = [row for row in rows if not row["method"].endswith("model")]
    plots.plot_error_by_horizon(without, tmp_path / "e.png", title="run")
    assert not contains_colour(pixels_of(tmp_path / "e.png"), plots.MODEL_COLOURS[0])


def test_skill_that_is_not_defined_leaves_a_gap(tmp_path):
    rows = [row | {"skill": None} for row in rows_of("A", spans=1)]
    plots.plot_error_by_horizon(rows, tmp_path / "e.png", title="run")
    plots.plot_backtest(rows, tmp_path / "b.png", title="run")
    pixels_of(tmp_path / "e.png")
    pixels_of(tmp_path / "b.png")


def test_residuals_show_their_mean(tmp_path, drawn, monkeypatch):
    residuals = np.random.default_rng(0).normal(3, 2, 300)
    plots.plot_residuals(DATES, residuals, "unused", title="t", horizon=20)
    (text,) = (text.get_text() for text in drawn[0].legends[0].get_texts())
    expected = f"mean {residuals.mean():.3g}, standard deviation {residuals.std():.3g}"
    assert text == expected
    counted = sum(bar.get_width() for bar in drawn[0].axes[1].patches)
    assert counted == 300
    monkeypatch.undo()
    for values in (residuals, np.zeros(300)):
        plots.plot_residuals(DATES, values, tmp_path / "r.png", title="t", horizon=20)
        pixels_of(tmp_path / "r.png")
