"""The LMS filter: its update, its bound, where it goes, and what divergence looks like."""

import csv
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxmodels.shared.data.lms import LMSData, LMSDataConfig, make_stream
from jaxmodels.shared.families import lms as family
from jaxmodels.shared.run import NonFiniteLossError, Run, check_finite
from jaxmodels.shared.tasks import TASKS, Task
from jaxmodels.shared.training import prepare
from parity_tests.tiny_runs import (
    ENGINES,
    call,
    compile_once,
    history,
    train_tiny,
    with_settings,
)

__all__ = ["compile_once"]  # a fixture

TASK = with_settings(TASKS["lms"], training={"epochs": 20}, data={"num_samples": 200})


def by_hand(task: Task, data: LMSData, steps: int) -> np.ndarray:
    """w += rate * e * z, sample by sample, in float64: (F + 1,), the offset last."""
    weights = np.zeros(data.train.inputs.shape[1] + 1)
    for step in range(steps):
        sample = np.append(data.train.inputs[step % len(data.train)], 1.0)
        error = data.train.targets[step % len(data.train)] - sample @ weights
        weights += task.optimizer.learning_rate * error * sample
    return weights


def test_wiener_solution_leaves_errors_that_no_input_explains() -> None:
    data = make_stream(LMSDataConfig())
    inputs = np.column_stack([data.train.inputs, np.ones(len(data.train))]).astype(np.float64)
    errors = data.train.targets - inputs @ data.wiener
    np.testing.assert_allclose(inputs.T @ errors / len(errors), 0, atol=1e-12)
    np.testing.assert_allclose(data.wiener, [2, -1, 0.5], atol=0.1)
    assert data.wiener_error(data.test) == pytest.approx(0.25, rel=0.15)  # the noise's variance
    correlation = inputs.T @ inputs / len(inputs)
    assert data.stability_bound == pytest.approx(2 / np.linalg.norm(correlation, 2))


def test_mean_converges_below_the_bound_and_not_above_it() -> None:
    """The bound is of E[w], which goes by w - rate * (R w - p)."""
    data = make_stream(LMSDataConfig())
    inputs = np.column_stack([data.train.inputs, np.ones(len(data.train))]).astype(np.float64)
    correlation = inputs.T @ inputs / len(inputs)
    for factor, converges in ((0.98, True), (1.02, False)):
        error = np.ones(3)
        for _ in range(2000):
            error = error - factor * data.stability_bound * (correlation @ error)
        assert (np.abs(error).max() < 1) == converges


@pytest.mark.parametrize("engine", ENGINES)
def test_each_step_is_the_lms_update(engine: str, tmp_path: Path) -> None:
    data = family.load("sample", TASK)
    trained, _ = train_tiny(engine, tmp_path, TASK, data=data)
    weights = family.read_filter(TASK, trained.predict)
    np.testing.assert_allclose(weights, by_hand(TASK, data, 200), rtol=1e-4, atol=1e-5)
    other = with_settings(TASK, optimizer={"learning_rate": 0.0101})
    assert np.abs(by_hand(other, data, 200) - weights).max() > 1e-3  # the control
    assert len(history(tmp_path)) == 20


def test_samples_come_in_order_and_again() -> None:
    data = family.load("sample", TASK)
    rows = [
        int(batch["index"][0])
        for batch in itertools.islice(family.training_batches(TASK, data, 198), 5)
    ]
    assert rows == [198, 199, 0, 1, 2]
    assert family.steps_per_epoch(TASK, data) == 10


def test_filter_ends_near_the_wiener_solution_by_its_rate() -> None:
    """A smaller rate ends nearer, and takes longer: the misadjustment grows with the rate."""
    data = make_stream(LMSDataConfig(num_samples=4000))
    distances = []
    for rate in (0.001, 0.01, 0.05):
        task = with_settings(TASKS["lms"], optimizer={"learning_rate": rate})
        distances.append(np.linalg.norm(by_hand(task, data, 12_000) - data.wiener))
    assert distances[0] < 0.05 < distances[2]


@pytest.mark.parametrize("engine", ENGINES)
def test_divergence_is_named_with_its_bound(engine: str, tmp_path: Path) -> None:
    task = with_settings(TASK, optimizer={"learning_rate": 0.5})
    data = family.load("sample", task)
    with pytest.raises(NonFiniteLossError) as stopped:
        prepare(Run(task, engine, "sample"), data, tmp_path / "run")()
    bound = f"2/lambda_max = {data.stability_bound:.4g}"
    assert f"its rate 0.5 is above the stability bound {bound}" in str(stopped.value)
    assert "the loss is" in str(stopped.value)  # not yet infinite


def test_loss_beyond_reason_is_refused_before_it_is_infinite() -> None:
    check_finite(1e11, 0, 1, [0])
    check_finite(np.array([1e13]), 0, 1, [0])  # outputs may be of any size
    for loss in (1e13, float("inf"), float("nan")):
        with pytest.raises(NonFiniteLossError, match="the loss is"):
            check_finite(loss, 0, 1, [0])


def test_run_sets_the_filter_beside_the_wiener_solution(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = ("data.num_samples=300", "training.epochs=30")
    code, out, err = call("train", "lms", "--engine", "torch", "--out", folder, *settings)
    assert code == 0, err
    metrics = json.loads((folder / "metrics.json").read_text())
    assert f"2/lambda_max = {metrics['stability_bound']:.4g}" in out
    assert metrics["diverges"] is False
    with open(folder / "weights.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["weight"] for row in rows] == ["w1", "w2", "offset"]
    np.testing.assert_allclose([float(r["lms"]) for r in rows], metrics["weights"])
    np.testing.assert_allclose(metrics["weights"], metrics["wiener"], atol=0.3)
    assert {p.name for p in (folder / "plots").iterdir()} == {
        *("mse.png", "weights.png", "planes.png")
    }
    code, out, err = call("evaluate", folder, "--engine", "flax", "--out", tmp_path / "again")
    assert code == 0, err
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())
    np.testing.assert_allclose(again["weights"], metrics["weights"], rtol=1e-6)


def test_filter_that_is_worse_than_none_has_diverged(tmp_path: Path) -> None:
    """At a rate that takes long to show: weights beyond reason, and a loss that is a number."""
    data = family.load("sample", TASK)

    class Far:
        metric = 50.0

    def predict(batch: Any, carry: Any) -> tuple[np.ndarray, None]:
        return (batch["inputs"] @ np.array([9.0, 9.0])).astype(np.float32), None

    found = family.write_outputs(tmp_path, TASK, data, "test", Far, [], predict)  # type: ignore[arg-type]
    assert found["diverges"]
    assert "The LMS filter diverges" in found["verdicts"][0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--source", "elsewhere"), "makes its own samples"),
        (("--model.hidden-dims", "3", "--model.initializer", "he-normal"), "the filter is linear"),
        (("--data.weights", "1", "2", "3"), "add --model.num-features 3"),
        (("--data.correlation", "1.5"), "--data.correlation 1.5 must be in"),
        (("--data.samples-per-epoch", "0"), "--data.samples-per-epoch 0 must be at least 1"),
    ],
)
def test_wrong_settings_are_refused(flags: tuple[str, ...], message: str, tmp_path: Path) -> None:
    code, _, err = call("train", "lms", "--out", tmp_path / "run", *flags)
    assert code == 2
    assert message in err
    assert not (tmp_path / "run").exists()
