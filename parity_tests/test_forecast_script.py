"""`scripts/forecast.py`: a run's forecasts from the newest rows, with the run's own scalers."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("torch")

from jaxmodels.shared.command_line import load_engine
from jaxmodels.shared.configs import RecurrentForecasterConfig
from jaxmodels.shared.data.price_sources import read_prices
from jaxmodels.shared.data.series import SeriesDataConfig, load_series
from jaxmodels.shared.families import series
from jaxmodels.shared.forecasting.baselines import BaselineConfig, History, forecast_prices
from jaxmodels.shared.hub.folder import open_checkpoint, save_checkpoint
from jaxmodels.shared.hub.tensor_files import read_all
from jaxmodels.shared.run import Run
from jaxmodels.shared.tasks import OptimizerConfig, Task, TrainingConfig
from jaxmodels.shared.training import prepare
from parity_tests.price_series import walk
from parity_tests.tiny_runs import TASK as IMAGES
from parity_tests.tiny_runs import call, refused

WINDOW, HORIZONS, QUANTILES = 6, (1, 3, 7), (0.05, 0.5, 0.9)
TASK = Task(
    name="tiny-prices",
    description="a small forecaster, for the tests",
    model=RecurrentForecasterConfig(
        num_features=2, num_horizons=3, quantiles=QUANTILES, hidden_dim=5
    ),
    data=SeriesDataConfig(
        features=("log_return", "volume_change"), window=WINDOW, horizons=HORIZONS
    ),
    optimizer=OptimizerConfig(name="adamw", learning_rate=0.01),
    training=TrainingConfig(epochs=15, batch_size=64),
)


def write_prices(path: Path, rows: int, *, deviation: float = 0.02, columns: int = 2) -> str:
    """A file of `rows` rows; a longer one of the same deviation begins alike."""
    days = np.busday_offset(np.datetime64("2015-01-05"), np.arange(rows))
    volumes = np.random.default_rng(3).integers(1000, 9000, 400)
    lines = [
        ",".join([str(day), f"{close:.10f}", str(volume)][: columns + 1])
        for day, close, volume in zip(days, walk(400, deviation=deviation), volumes, strict=False)
    ]
    path.write_text("\n".join([",".join(["Date", "Close", "Volume"][: columns + 1]), *lines]))
    return str(path)


def train(task: Task, source: str, folder: Path) -> Path:
    prepare(Run(task, "torch", source), load_series(source, task.data), folder)()  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forecast")
    return train(TASK, write_prices(folder / "ABC.csv", 300), folder / "run")


def numbers(run: Path, *arguments: object) -> np.ndarray:
    """The printed table: a row a horizon, of which the first number is the horizon."""
    code, text, errors = call("forecast", run, *arguments)
    assert (code, errors) == (0, "")
    assert max(map(len, text.splitlines()[1:])) <= 80
    lines = [line.replace(" to ", " ") for line in text.splitlines()]
    return np.array([line.split() for line in lines if re.match(r" *\d+  ", line)], float)


def by_hand(run: Path, source: str, scalers: Any = None) -> np.ndarray:
    """The same in a few lines that share nothing with the script but the model: (H, Q)."""
    scalers = scalers or json.loads((run / "scalers.json").read_text())
    table = next(iter(read_prices(source).frames.values()))
    close, volume = table.columns["close"], table.columns["volume"]
    features = np.stack([np.diff(np.log(close)), np.diff(np.log(1 + volume))], axis=-1)[-WINDOW:]
    inputs = (features - scalers["inputs"]["shift"]) / scalers["inputs"]["scale"]
    _, engine = load_engine(run)
    outputs = engine.predict({"inputs": inputs[None].astype(np.float32)})[0][0]  # (H, Q)
    shift, scale = (np.array(scalers["targets"][part])[:, None] for part in ("shift", "scale"))
    return close[-1] * np.exp(outputs * scale + shift)


@pytest.mark.parametrize("engine", ["torch", "flax"])
def test_forecast_is_the_models_output_in_prices(run: Path, engine: str) -> None:
    source = str(run.parent / "ABC.csv")
    printed = numbers(run, "--engine", engine)
    assert printed[:, 0].tolist() == list(HORIZONS)
    np.testing.assert_allclose(printed[:, 1:4], by_hand(run, source), atol=0.0051)
    walked = forecast_prices(
        "random walk",
        History(read_prices(source).frames["ABC"]),
        HORIZONS,
        BaselineConfig(coverage=0.85),
    )
    np.testing.assert_allclose(printed[:, 4], walked.lower, atol=0.0051)
    np.testing.assert_allclose(printed[:, 5], walked.upper, atol=0.0051)


def test_scalers_are_the_runs_and_not_of_the_new_prices(run: Path, tmp_path: Path) -> None:
    source = write_prices(tmp_path / "WILD.csv", 300, deviation=0.1)
    printed = numbers(run, "--source", source)[:, 1:4]
    np.testing.assert_allclose(printed, by_hand(run, source), atol=0.0051)
    anew = series.fitted_files(load_series(source, TASK.data))[series.SCALERS_FILE]  # type: ignore[arg-type]
    assert np.abs(printed - by_hand(run, source, json.loads(anew))).max() > 0.1  # the control


def test_rows_to_come_change_no_forecast(run: Path, tmp_path: Path) -> None:
    """What is forecast from a day is what the whole file, evaluated later, forecast from there."""
    data = load_series(str(run.parent / "ABC.csv"), TASK.data)  # type: ignore[arg-type]
    _, engine = load_engine(run)
    for place in (0, len(data.test) - 1):
        rows = int(data.test.origins[place]) + 1
        printed = numbers(run, "--source", write_prices(tmp_path / "ABC.csv", rows))[:, 1:4]
        outputs, _ = engine.predict({"inputs": data.test.inputs(slice(place, place + 1))})
        later = data.to_prices(outputs, data.test.origin_prices[place : place + 1])[0]
        np.testing.assert_allclose(printed, later, atol=0.0051)
        other = data.to_prices(outputs, data.test.origin_prices[place - 5 : place - 4])
        assert place == 0 or np.abs(printed - other[0]).max() > 0.1  # the control


def test_a_file_of_just_enough_rows_is_enough(run: Path, tmp_path: Path) -> None:
    source = write_prices(tmp_path / "ABC.csv", WINDOW + 1)
    np.testing.assert_allclose(
        numbers(run, "--source", source)[:, 1:4], by_hand(run, source), atol=0.0051
    )
    short = write_prices(tmp_path / "ABC.csv", WINDOW)
    message = refused("forecast", run, "--source", short)
    for word in (short, "ABC", f"{WINDOW} rows", "expected more rows"):
        assert word in message


def test_horizon_ends_the_table(run: Path) -> None:
    assert numbers(run, "--horizon", 3)[:, 0].tolist() == [1, 3]
    message = refused("forecast", run, "--horizon", 5)
    for word in ("--horizon 5", "1, 3, 7", "--data.horizons 1 3 5 7", "--model.num-horizons 4"):
        assert word in message


def test_each_ticker_has_a_table(run: Path, tmp_path: Path) -> None:
    write_prices(tmp_path / "AAA.csv", 50)
    write_prices(tmp_path / "BBB.csv", 60)
    assert len(numbers(run, "--source", tmp_path)) == 6
    (one,) = {len(numbers(run, "--source", tmp_path, "--ticker", name)) for name in ("aaa", "BBB")}
    assert one == 3
    assert "no CCC; expected tickers among AAA, BBB" in refused(
        "forecast", run, "--source", tmp_path, "--ticker", "CCC"
    )


def test_crossing_quantiles_are_told_in_a_line(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("run.json", "scalers.json"):
        (folder / name).write_text((run / name).read_text())
    checkpoint = open_checkpoint(run)
    tensors = read_all(checkpoint.stored)
    tensors["linear.weight"] *= 0
    tensors["linear.bias"] = np.array([-1, 0, 1, 1, 0, -1, -1, 1, 0], np.float32)
    save_checkpoint(folder, checkpoint.config, tensors)
    code, text, errors = call("forecast", folder)
    assert code == 0
    assert "ABC: " in text
    assert errors.startswith("warning: quantiles cross (ABC 3, 7 rows ahead)")
    assert errors.count("\n") == 1


def test_many_quantiles_fit_the_page(run: Path, tmp_path: Path) -> None:
    quantiles = tuple(round(0.05 * number, 2) for number in range(1, 20))
    task = dataclasses.replace(TASK, model=dataclasses.replace(TASK.model, quantiles=quantiles))
    folder = train(task, str(run.parent / "ABC.csv"), tmp_path / "run")
    code, text, _ = call("forecast", folder)
    assert code == 0
    assert all(len(line) <= 80 for line in text.splitlines()[1:])
    assert {f"{5 * number}%" for number in range(1, 20)} - {"50%"} <= set(text.split())
    assert text.count("rows ahead") > 1


def test_mistakes_are_one_line_that_names_them(run: Path, tmp_path: Path) -> None:
    source = write_prices(tmp_path / "ABC.csv", 50, columns=1)
    message = refused("forecast", run, "--source", source)
    assert "no column volume" in message
    assert source in message
    assert message.count("\n") == 1
    assert "does not exist" in refused("forecast", run, "--source", tmp_path / "none")
    from parity_tests.tiny_runs import DATA

    prepare(Run(IMAGES, "torch", "tiny"), DATA, tmp_path / "images")()
    assert "tiny, which forecasts no prices" in refused("forecast", tmp_path / "images")
    (tmp_path / "images" / "model.safetensors").unlink()
    assert "not finished" in refused("forecast", tmp_path / "images")
