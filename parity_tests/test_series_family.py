"""A training of prices through the scripts: its files, its table, and a verdict that is earned."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
# Imported here, before pytest sets its filters of warnings: the import sets some of its own.
pytest.importorskip("statsmodels.tsa.api")

from jaxmodels.shared.command_line import load_engine
from jaxmodels.shared.data.price_sources import Prices, read_prices
from jaxmodels.shared.data.price_tables import PriceTable
from jaxmodels.shared.data.series import SeriesDataConfig, make_windows
from jaxmodels.shared.families import series
from jaxmodels.shared.forecasting import baselines
from jaxmodels.shared.forecasting.backtest import backtest
from jaxmodels.shared.forecasting.baselines import Forecast, History, installed_baselines
from jaxmodels.shared.forecasting.table import write_table
from jaxmodels.shared.loop import evaluate
from parity_tests.price_series import prices_of, walk
from parity_tests.tiny_runs import call, refused

pytestmark = pytest.mark.filterwarnings(
    "ignore:Non-(stationary|invertible) starting", "ignore:Maximum Likelihood optimization failed"
)

HORIZONS, QUANTILES = (1, 5, 20), (0.05, 0.5, 0.95)
TINY = (
    *("--engine", "torch", "--epochs", 1, "--batch-size", 256),
    *("--model.hidden-dim", 6, "--data.window", 10),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the seasonal source, with a backtest of two spans of two origins."""
    folder = tmp_path_factory.mktemp("series") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(series, "_BACKTESTS", ((2, 2),))
        arguments = ("--source", "seasonal", "--out", folder, *TINY)
        code, _, errors = call("train", "prices-lstm", *arguments)
        assert code == 0, errors
    return folder


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_finished_run_leaves_its_files(run: Path) -> None:
    for name in ("scalers.json", "predictions.csv", "backtest.csv", "table.md", "metrics.json"):
        assert (run / name).stat().st_size > 100, name
    assert {path.name for path in (run / "plots").iterdir()} == {
        *("curves.png", "error_by_horizon.png", "backtest.png"),
        *(f"forecast_SEASONAL_{horizon}.png" for horizon in HORIZONS),
        *(f"residuals_{horizon}.png" for horizon in HORIZONS),
    }
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["split"], len(metrics["verdicts"])) == ("test", 3)
    table = (run / "table.md").read_text()
    for verdict in metrics["verdicts"]:
        assert f"\n{verdict}\n" in table


def test_predictions_name_the_prices_that_came(run: Path) -> None:
    prices = read_prices("seasonal").frames["SEASONAL"]
    close, day = prices.columns["close"], {str(d): row for row, d in enumerate(prices.dates)}
    rows = read(run / "predictions.csv")
    assert len(rows) == 3 * json.loads((run / "metrics.json").read_text())["test_examples"]
    for row in rows:
        origin, horizon = day[row["origin"]], int(row["horizon"])
        np.testing.assert_allclose(
            [float(row["origin_price"]), float(row["actual"])],
            close[[origin, origin + horizon]],
            rtol=1e-5,
        )
    assert {int(row["horizon"]) for row in rows} == set(HORIZONS)
    assert {f"quantile_{quantile:g}" for quantile in QUANTILES} <= rows[0].keys()


def test_table_has_every_installed_baseline_at_each_horizon(run: Path) -> None:
    sections = (run / "table.md").read_text().split("\n## ")[1:]
    assert len(sections) == len(HORIZONS)
    for section, horizon in zip(sections, HORIZONS, strict=True):
        assert section.startswith(f"SEASONAL, {horizon} row")
        lines = [line for line in section.splitlines() if line.startswith("| ")][2:]
        methods = {line.split("|")[1].strip() for line in lines}
        assert methods == {*installed_baselines(), "**prices-lstm**"}
        errors = [float(line.split("|")[2]) for line in lines]
        assert errors == sorted(errors)
    spans = {row["span"] for row in read(run / "backtest.csv")}
    assert len(spans) == 3
    assert "all" in spans


def test_intervals_of_the_table_are_as_wide_as_the_models(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Baselines are asked for the share that the model's outer quantiles enclose."""
    asked: list[float] = []

    def spy(*_: Any, config: Any, **__: Any) -> list[dict[str, Any]]:
        asked.append(config.coverage)
        return []

    monkeypatch.setattr(series, "backtest", spy)
    monkeypatch.setattr(series, "_BACKTESTS", ((1, 2),))
    assert call("evaluate", run, "--out", run.parent / "evaluated")[0] == 0
    assert asked == [pytest.approx(0.9)]
    assert series.enclosed((0.1, 0.5, 0.8)) == pytest.approx(0.7)
    assert series.enclosed((0.5,)) == 0.9


def test_baselines_are_given_the_season_of_the_series(run: Path) -> None:
    def config_of(prices: Prices) -> baselines.BaselineConfig:
        data = make_windows(prices, SeriesDataConfig(window=10, horizons=(1, 5)))
        return series._baselines(data, coverage=0.9)

    co2 = read_prices("co2")
    assert (config_of(co2).season, config_of(co2).seasonal_smoothing) == (52, True)
    assert config_of(replace(co2, season=None)) == baselines.BaselineConfig()
    # Of 180 weeks those before the test span are fewer than three years.
    start = PriceTable(co2.frames["CO2"].dates[:180], {"close": walk(180)})
    assert config_of(replace(co2, frames={"CO2": start})) == baselines.BaselineConfig()
    assert "season of the seasonal methods is 20 rows" in (run / "table.md").read_text()


def test_title_names_few_tickers() -> None:
    for count, title in ((1, "T0"), (5, "T0, T1, T2, T3, T4"), (7, "T0, T1, T2, T3 and 3 more")):
        prices = prices_of(**{f"T{number}": walk(200) for number in range(count)})
        assert series._tickers(make_windows(prices, SeriesDataConfig(window=10))) == title


def row(method: str, **changes: Any) -> dict[str, Any]:
    """A row of the backtest, of a method that is as good as the random walk."""
    own = {"ticker": "A", "span": "all", "horizon": 5, "method": method, "origins": 60}
    own |= {"separate": 30, "mae": 2.0, "rmse": 3.0, "smape": 1.0, "mase": 1.0}
    own |= {"directional_accuracy": None, "skill": 0.0, "p_value": None, "coverage": 0.9}
    return own | changes


BETTER, WORSE = {"mae": 1.5, "skill": 0.25}, {"mae": 2.5, "skill": -0.25}
VERDICTS = {
    "better and sure": (BETTER | {"p_value": 0.049}, "beats"),
    "better, not sure": (BETTER | {"p_value": 0.051}, "cannot be told from"),
    "worse and sure": (WORSE | {"p_value": 0.049}, "is worse than"),
    "worse, not sure": (WORSE | {"p_value": 0.051}, "cannot be told from"),
    "not tested": (BETTER, "cannot be told from"),
    "better, but few separate": (BETTER | {"p_value": 1e-5, "separate": 9}, "cannot be told from"),
    "better, separate enough": (BETTER | {"p_value": 1e-5, "separate": 10}, "beats"),
    "equal": ({}, "is level with"),
    "equal, of other forecasts": ({"p_value": 1.0}, "is level with"),
    "worse than no error": (WORSE | {"skill": None, "p_value": 0.01}, "is worse than"),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_verdict_says_what_the_numbers_do(case: str, tmp_path: Path) -> None:
    changes, words = VERDICTS[case]
    rows = [row("random walk"), row("m", **changes), row("drift", mae=1.9, skill=0.05)]
    rows.insert(0, row("ARIMA", mae=3.0, skill=-0.5))
    rows += [one | {"span": "2020", "mae": 0.1, "p_value": 0.0} for one in rows]  # not looked at
    (verdict,) = write_table(tmp_path, rows, "m", coverage=0.8, season=5)
    assert verdict.startswith(f"A, 5 rows ahead: m {words} the random walk (skill ")
    assert verdict.endswith("; the best other method is drift (skill +0.050)")
    assert "its 80% interval holds 90%" in verdict
    few = changes.get("separate", 30) < 10
    assert (f"only {changes.get('separate')} of 60 forecasts do not overlap" in verdict) is few


def test_verdict_needs_no_other_baseline(tmp_path: Path) -> None:
    rows = [row("random walk"), row("m", p_value=1e-9, **BETTER)]
    (verdict,) = write_table(tmp_path, rows, "m", coverage=0.9, season=5)
    assert verdict.endswith("m beats the random walk (skill +0.250, p <0.001); its 90% interval "
                            "holds 90%")  # fmt: skip
    assert "| <0.001 |" in (tmp_path / "table.md").read_text()


def test_verdict_follows_from_the_forecasts(tmp_path: Path) -> None:
    """An oracle beats the random walk, one that adds noise is worse, a copy is level with it."""
    prices = prices_of(A=walk(600))
    close = prices.frames["A"].columns["close"]

    def oracle(history: History, horizons: tuple[int, ...]) -> Forecast:
        return Forecast(*[close[len(history.prices) - 1 + np.array(horizons)]] * 3)

    def copy(history: History, horizons: tuple[int, ...]) -> Forecast:
        return Forecast(*[np.repeat(history.prices[-1], len(horizons))] * 3)

    def off(history: History, horizons: tuple[int, ...]) -> Forecast:
        return Forecast(*[np.repeat(1.2 * history.prices[-1], len(horizons))] * 3)

    models = {"oracle": oracle, "copy": copy, "off": off}
    options = {"baselines": (), "models": models, "spans": 1, "origins_per_span": 40}
    rows = backtest(prices, (1, 20), **options)
    words = {"oracle": "beats", "copy": "is level with", "off": "is worse than"}
    for name, word in words.items():
        near, far = write_table(tmp_path, rows, name, coverage=0.9, season=5)
        assert f"{name} {word} the random walk" in near
        # Twenty rows ahead from origins four rows apart: eight in forty do not overlap.
        assert name == "copy" or "cannot be told from the random walk" in far
        assert "only 8 of 40 forecasts do not overlap" in far


@pytest.mark.parametrize(
    ("days", "spans"), [(24, None), (25, (1, 5)), (40, (1, 20)), (120, (3, 20))]
)
def test_backtest_has_as_many_spans_as_the_test_days_have_room_for(
    days: int, spans: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, int]] = []

    def spy(*_: Any, spans: int, origins_per_span: int, **options: Any) -> list[dict[str, Any]]:
        made.append((spans, origins_per_span))
        plain = {name: options[name] for name in ("test_start",)}
        return backtest(
            prices, HORIZONS, baselines=(), spans=spans, origins_per_span=origins_per_span, **plain
        )

    prices = prices_of(A=walk(400))
    config = SeriesDataConfig(window=10, horizons=HORIZONS, test_fraction=days / 400)
    monkeypatch.setattr(series, "backtest", spy)
    rows = series._backtest(make_windows(prices, config), {}, baselines.BaselineConfig())
    assert made == ([] if spans is None else [spans])
    assert bool(rows) is (spans is not None)


def test_a_test_span_too_short_for_a_backtest_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = ("--source", "seasonal", "--out", folder, *TINY, "--data.test-fraction", 24 / 1500)
    code, _, errors = call("train", "prices-lstm", *arguments)
    assert code == 0, errors
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["verdicts"] == ["the test span is too short for a backtest"]
    assert (folder / "predictions.csv").exists()
    assert not (folder / "table.md").exists()


def test_missing_statsmodels_is_told_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        baselines, "find_spec", lambda name: None if name == "statsmodels" else object()
    )
    given = ("--source", "seasonal", "--out", tmp_path / "run", *TINY)
    message = refused("train", "prices-lstm", *given)
    assert "pip install 'jaxmodels[forecast]'" in message
    assert "statsmodels" in message
    assert not (tmp_path / "run").exists()


def test_evaluation_on_other_prices_keeps_the_runs_scalers(run: Path) -> None:
    loaded, engine = load_engine(run)
    config = loaded.task.data
    assert isinstance(config, SeriesDataConfig)
    code, text, errors = call("evaluate", run, "--source", "sample", "--split", "validation")
    assert code == 0, errors
    kept = make_windows(read_prices("sample"), config, scalers=series.read_scalers(run))
    refitted = make_windows(read_prices("sample"), config)
    losses = [
        evaluate(loaded.task, data, "validation", engine.predict).loss for data in (kept, refitted)
    ]
    assert f"loss {losses[0]:.4f} on" in text
    assert f"loss {losses[1]:.4f} on" not in text  # the control


def test_malformed_scalers_are_named(run: Path) -> None:
    path = run / "scalers.json"
    whole = path.read_text()
    try:
        for wrong in ('{"inputs": {"shift": [0], "scale": [1]}}', '{"inputs": 3}', "[1]"):
            path.write_text(wrong)
            for script in ("evaluate", "forecast"):
                assert f"{path} is malformed" in refused(script, run)
        path.unlink()
        assert f"{path} is missing" in refused("evaluate", run)
    finally:
        path.write_text(whole)
