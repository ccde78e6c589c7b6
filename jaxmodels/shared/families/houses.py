"""House prices: a row of features in, the log of a price out."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.shared.data import batches, house_features
from jaxmodels.shared.data.batches import Batch
from jaxmodels.shared.data.counters import Host
from jaxmodels.shared.data.house_features import Preparation
from jaxmodels.shared.data.houses import HouseData, HouseDataConfig, HouseSplit, load_houses
from jaxmodels.shared.families import rows as row_family
from jaxmodels.shared.families.family import Evaluation, Predict, SplitName
from jaxmodels.shared.files import read_json, replaced
from jaxmodels.shared.fine_tuning import fitted_folder
from jaxmodels.shared.plots import houses as house_plots
from jaxmodels.shared.plots import runs as plots
from jaxmodels.shared.tasks import Task

UNIT = "houses"
INPUTS = ("inputs",)
TARGET = "label"
LOSS = "half-squared-error"
METRIC = "squared_error"  # of the log price
KEEP_OUTPUTS = True
MEASURED_BEFORE = False

PREPARATION_FILE = "preparation.json"


def load(source: str, task: Task, run: Path | None = None) -> HouseData:
    assert isinstance(task.data, HouseDataConfig)
    fitted = fitted_folder(task, run)
    preparation = read_preparation(fitted) if fitted else None
    width = task.model.num_features  # type: ignore[union-attr]
    return load_houses(source, task.data, width=width, preparation=preparation)


def fitted_files(data: HouseData) -> dict[str, str]:
    content = house_features.to_json(data.preparation)
    return {PREPARATION_FILE: json.dumps(content) + "\n"}


def read_preparation(run: Path) -> Preparation:
    """What a run fitted on its training split.

    Raises:
        ValueError: the file is missing or malformed.
    """
    path = run / PREPARATION_FILE
    try:
        return house_features.from_json(read_json(path))
    except (KeyError, TypeError) as error:
        reason = repr(error)
    except ValueError as error:
        if str(error).startswith(str(path)):  # it is missing, or no JSON
            raise
        reason = str(error)
    raise ValueError(
        f"{path} is malformed ({reason}); expected what a run fitted; restore it from a copy"
    )


count = row_family.count
in_words = row_family.in_words
explain_divergence = row_family.explain_divergence


def steps_per_epoch(task: Task, data: HouseData) -> int:
    assert isinstance(task.data, HouseDataConfig)
    return task.data.passes * batches.steps_per_epoch(len(data.train), _batch_size(task, data))


def units_per_step(task: Task, data: HouseData) -> int:
    return _batch_size(task, data)


def training_batches(
    task: Task, data: HouseData, start_step: int = 0, *, host: Host = 0, num_hosts: int = 1
) -> Iterator[Batch]:
    return batches.shuffled_batches(
        lambda rows, epoch: _batch(data.train, rows),
        len(data.train),
        batch_size=_batch_size(task, data),
        seed=task.training.seed,
        start_step=start_step,
        host=host,
        num_hosts=num_hosts,
    )


def evaluation_batches(task: Task, data: HouseData, split: SplitName) -> Iterator[Batch]:
    return row_family.in_order(_batch, task, getattr(data, split))


def score(task: Task, outputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    squares = (outputs.astype(np.float64) - targets) ** 2
    return squares / 2, squares


def write_outputs(
    folder: Path,
    task: Task,
    data: HouseData,
    split: SplitName,
    evaluation: Evaluation,
    history: list[dict[str, Any]],
    predict: Predict,
) -> dict[str, Any]:
    """predictions.csv, plots/, and for Kaggle submission.csv where the source has its test.csv."""
    assert evaluation.outputs is not None
    houses: HouseSplit = getattr(data, split)
    assert houses.table.prices is not None
    predicted = data.preparation.to_prices(evaluation.outputs)
    columns = {
        "Id": houses.table.ids,
        "SalePrice": houses.table.prices,
        "predicted": np.round(predicted, 2),
    }
    _write_table(folder / "predictions.csv", columns)
    facts = {
        "rmse_log_price": float(np.sqrt(evaluation.metric)),
        "features": len(data.preparation.names),
        "filled": data.train.table.missing(),
        "unknown_words": data.preparation.unknown(houses.table),
    }
    if data.unpriced is not None:
        outputs, _ = predict({"inputs": data.inputs(data.unpriced)}, None)
        prices = np.round(data.preparation.to_prices(outputs), 2)
        _write_table(folder / "submission.csv", {"Id": data.unpriced.ids, "SalePrice": prices})
        facts["unknown_words_of_the_submission"] = data.preparation.unknown(data.unpriced)
    _draw(folder / "plots", task, data, houses, predicted, history)
    return facts | {"verdicts": _verdicts(facts, split)}


def _verdicts(facts: dict[str, Any], split: SplitName) -> list[str]:
    lines = [f"RMSE of the log price {facts['rmse_log_price']:.4f} on the {split} split"]
    if facts["filled"]:
        filled = ", ".join(f"{name} {count}" for name, count in facts["filled"].items())
        lines.append(f"missing in the training split, filled with its median or mode: {filled}")
    for name, where in (
        ("unknown_words", split),
        ("unknown_words_of_the_submission", "submission"),
    ):
        if facts.get(name):
            words = ", ".join(f"{word} ({count})" for word, count in facts[name].items())
            lines.append(f"{where}: words that the training split has not, taken as none: {words}")
    return lines


def _draw(
    folder: Path,
    task: Task,
    data: HouseData,
    houses: HouseSplit,
    predicted: np.ndarray,
    history: list[dict[str, Any]],
) -> None:
    folder.mkdir(exist_ok=True)
    title = f"{task.name} on {data.source}"
    if history:
        curves = folder / "curves.png"
        plots.plot_curves(history, curves, title=title, loss_unit="", metric=METRIC)
    table, prices = data.train.table, houses.table.prices
    assert prices is not None
    house_plots.plot_prices(table, folder / "prices.png", title=title)
    house_plots.plot_correlations(table, folder / "correlations.png", title=title)
    house_plots.plot_missing(table, folder / "missing.png", title=title)
    house_plots.plot_skew(table, data.preparation, folder / "skew.png", title=title)
    house_plots.plot_predictions(prices, predicted, folder / "predictions.png", title=title)
    house_plots.plot_residuals(prices, predicted, folder / "residuals.png", title=title)


def _batch_size(task: Task, data: HouseData) -> int:
    """A batch larger than the training split is all of it: full-batch descent for any split.

    Less the few rows that micro-batches of one size leave over.
    """
    size = min(task.training.batch_size, len(data.train))
    return size - size % task.training.micro_batches


def _batch(split: HouseSplit, rows: np.ndarray) -> Batch:
    """inputs: (B, F) float32; label: (B,) float32."""
    return {"inputs": split.inputs[rows], "label": split.targets[rows]}


def _write_table(path: Path, columns: dict[str, np.ndarray]) -> None:
    with replaced(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(values.tolist() for values in columns.values()), strict=True))
