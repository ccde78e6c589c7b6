"""Adaptive filtering: one sample a step, in its order, by the least-mean-squares rule."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.shared.data import batches
from jaxmodels.shared.data.batches import Batch
from jaxmodels.shared.data.counters import Host, host_rows
from jaxmodels.shared.data.lms import (
    LMSData,
    LMSDataConfig,
    Samples,
    divergence_note,
    make_stream,
)
from jaxmodels.shared.families import houses as house_family
from jaxmodels.shared.families import rows as row_family
from jaxmodels.shared.families.family import Evaluation, Predict, SplitName
from jaxmodels.shared.families.sizes import check_sizes
from jaxmodels.shared.files import replaced
from jaxmodels.shared.plots import lms as lms_plots
from jaxmodels.shared.tasks import Task

UNIT = "samples"
INPUTS = ("inputs",)
TARGET = "label"
LOSS = "half-squared-error"
METRIC = "squared_error"
KEEP_OUTPUTS = False
MEASURED_BEFORE = False


def load(source: str, task: Task, run: Path | None = None) -> LMSData:
    """The stream is made, not read, and nothing is fitted."""
    assert isinstance(task.data, LMSDataConfig)
    if source != "sample":
        raise ValueError(f"--source {source}: this task makes its own samples; leave it out")
    if task.model.hidden_dims:  # type: ignore[union-attr]
        raise ValueError(
            f"--model.hidden-dims {task.model.hidden_dims}: the filter is linear; "  # type: ignore[union-attr]
            "leave it out"
        )
    check_sizes(task, "data", num_features=len(task.data.weights))
    return make_stream(task.data)


def fitted_files(data: LMSData) -> dict[str, str]:
    return {}


count = row_family.count
in_words = row_family.in_words


def steps_per_epoch(task: Task, data: LMSData) -> int:
    assert isinstance(task.data, LMSDataConfig)
    return batches.steps_per_epoch(task.data.samples_per_epoch, task.training.batch_size)


units_per_step = row_family.units_per_step


def training_batches(
    task: Task, data: LMSData, start_step: int = 0, *, host: Host = 0, num_hosts: int = 1
) -> Iterator[Batch]:
    """In order, and from the first again after the last; never shuffled."""
    size, step = task.training.batch_size, start_step
    own = host_rows(size, host, num_hosts)
    while True:
        rows = (step * size + own) % len(data.train)
        yield _batch(data.train, rows) | {"index": rows}
        step += 1


def evaluation_batches(task: Task, data: LMSData, split: SplitName) -> Iterator[Batch]:
    return row_family.in_order(_batch, task, getattr(data, split))


score = house_family.score


def explain_divergence(task: Task, data: LMSData) -> str:
    return divergence_note(data, task.optimizer.learning_rate)


def write_outputs(
    folder: Path,
    task: Task,
    data: LMSData,
    split: SplitName,
    evaluation: Evaluation,
    history: list[dict[str, Any]],
    predict: Predict,
) -> dict[str, Any]:
    """weights.csv and plots/, and how the filter stands to the Wiener solution."""
    weights = read_filter(task, predict)
    rate, bound = task.optimizer.learning_rate, data.stability_bound
    diverges = evaluation.metric > _power(data)
    best = data.wiener_error(getattr(data, split))
    _write_weights(folder / "weights.csv", weights, data.wiener)
    drawn = folder / "plots"
    drawn.mkdir(exist_ok=True)
    title = f"{task.name}, rate {rate:g}"
    if history:
        lms_plots.plot_error(
            history,
            drawn / "mse.png",
            title=title,
            samples_per_epoch=task.data.samples_per_epoch,  # type: ignore[union-attr]
            wiener_error=data.wiener_error(data.validation),
        )
    lms_plots.plot_weights(weights, data.wiener, drawn / "weights.png", title=title)
    if data.train.inputs.shape[1] == 2:
        rows: Samples = getattr(data, split)
        lms_plots.plot_planes(
            rows.inputs, rows.targets, weights, data.wiener, drawn / "planes.png", title=title
        )
    note = explain_divergence(task, data)
    if not diverges:
        note = f"converges: the rate {rate:g} is below 2/lambda_max = {bound:.4g}"
    return {
        "learning_rate": rate,
        "lambda_max": data.lambda_max,
        "stability_bound": bound,
        "safe_rate": data.safe_rate,
        "weights": weights.tolist(),
        "wiener": data.wiener.tolist(),
        "wiener_squared_error": best,
        "diverges": bool(diverges),
        "verdicts": [
            note,
            f"its error is {evaluation.metric / best - 1:.1%} above Wiener's {best:.4f}",
        ],
    }


def read_filter(task: Task, predict: Predict) -> np.ndarray:
    """The filter's weights and, last, its offset: (F + 1,) float64, from what it answers."""
    size = task.model.num_features  # type: ignore[union-attr]
    inputs = np.vstack([np.eye(size), np.zeros((1, size))]).astype(np.float32)
    answers = predict({"inputs": inputs}, None)[0].astype(np.float64)
    return np.append(answers[:-1] - answers[-1], answers[-1])


def _power(data: LMSData) -> float:
    """What an error is when the filter answers 0: one that is worse has not converged."""
    return float((data.train.targets.astype(np.float64) ** 2).mean())


def _batch(samples: Samples, rows: np.ndarray) -> Batch:
    """inputs: (B, F) float32; label: (B,) float32."""
    return {"inputs": samples.inputs[rows], "label": samples.targets[rows]}


def _write_weights(path: Path, weights: np.ndarray, wiener: np.ndarray) -> None:
    names = [*(f"w{place}" for place in range(1, len(weights))), "offset"]
    with replaced(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["weight", "lms", "wiener"])
        writer.writerows(zip(names, weights.tolist(), wiener.tolist(), strict=True))
