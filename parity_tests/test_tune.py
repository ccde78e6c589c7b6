"""`scripts/tune.py`: repeatable, interrupted without harm, and blind to the test split."""

import csv
import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("optuna")

from jaxmodels.shared import loop
from jaxmodels.shared.experiments import tuning
from jaxmodels.shared.run import NonFiniteLossError, Run
from jaxmodels.shared.tasks import TASKS, Task
from parity_tests.price_series import walk
from parity_tests.tiny_runs import call, refused, with_settings

TINY = (
    *("--engine", "torch", "--epochs", 2, "--training.batch-size", 64),
    *("--model.hidden-dim", 3, "--data.window", 4, "--data.horizons", 1, 2, 5),
)


def write_prices(path: Path, *, poisoned: slice = slice(0, 0)) -> Path:
    """300 rows of which 30 are validation and 60 test; some of them poisoned."""
    closes = walk(300)
    closes[poisoned] *= np.random.default_rng(1).uniform(0.1, 10, 300)[poisoned]
    days = np.busday_offset(np.datetime64("2015-01-05"), np.arange(300))
    path.parent.mkdir(exist_ok=True)
    lines = [f"{day},{close:.8f}" for day, close in zip(days, closes, strict=True)]
    path.write_text("\n".join(["Date,Close", *lines]))
    return path


def tune(source: Path, folder: Path, trials: int, *more: object) -> list[dict[str, str]]:
    """The rows of trials.csv."""
    arguments = (*TINY, "--source", source, "--out", folder, "--trials", trials, *more)
    code, _, errors = call("tune", "prices-lstm", *arguments)
    assert code == 0, errors
    return rows_of(folder)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "trials.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prices(tmp_path_factory.mktemp("prices") / "ABC.csv")


@pytest.fixture(scope="module")
def study(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three finished trials; tests copy the folder before they add to it."""
    folder = tmp_path_factory.mktemp("study") / "study"
    tune(source, folder, 3)
    return folder


def test_first_trial_is_the_tasks_own_recipe(study: Path) -> None:
    rows = rows_of(study)
    assert [row["trial"] for row in rows] == ["0", "1", "2"]
    own = TASKS["prices-lstm"]
    assert float(rows[0]["optimizer.learning_rate"]) == own.optimizer.learning_rate
    assert float(rows[0]["optimizer.weight_decay"]) == own.optimizer.weight_decay
    assert (rows[0]["model.hidden_dim"], rows[0]["training.batch_size"]) == ("3", "64")
    assert len({row["optimizer.learning_rate"] for row in rows}) == 3
    assert len({row["validation_loss"] for row in rows}) == 3


def test_trial_is_a_run_and_is_judged_by_its_lowest_validation_loss(study: Path) -> None:
    for row in rows_of(study):
        folder = study / "trials" / row["trial"]
        history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        losses = [epoch["validation_loss"] for epoch in history]
        assert float(row["validation_loss"]) == min(losses)
        assert int(row["epoch"]) == 1 + losses.index(min(losses))
        asked = json.loads((folder / "run.json").read_text())["task"]
        assert asked["optimizer"]["learning_rate"] == float(row["optimizer.learning_rate"])
        assert asked["model"]["hidden_dim"] == int(row["model.hidden_dim"])
    code, text, errors = call("evaluate", study / "trials" / "1", "--split", "validation")
    assert code == 0, errors
    assert f"loss {float(rows_of(study)[1]['last_validation_loss']):.4f}" in text


def test_best_is_the_lowest_and_its_command_trains_it_again(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = json.loads((study / "best.json").read_text())
    lowest = min(rows_of(study), key=lambda row: float(row["validation_loss"]))
    assert str(best["trial"]) == lowest["trial"]
    python, script, *arguments = shlex.split(best["command"])
    assert (python, script) == ("python", "scripts/train.py")
    arguments[arguments.index("--out") + 1] = str(tmp_path / "again")
    from jaxmodels.shared.families import series

    monkeypatch.setattr(series, "_BACKTESTS", ())
    assert call("train", *arguments)[0] == 0
    for name in ("run.json", "model.safetensors"):
        trial = study / "trials" / lowest["trial"] / name
        assert (tmp_path / "again" / name).read_bytes() == trial.read_bytes()
    other = study / "trials" / ("1" if lowest["trial"] != "1" else "0")  # the control
    again = (tmp_path / "again" / "model.safetensors").read_bytes()
    assert again != (other / "model.safetensors").read_bytes()


def test_finished_study_is_only_reported(study: Path, source: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(study, tmp_path / "study")
    before = {path: path.stat().st_mtime_ns for path in (copy / "trials").rglob("*")}
    assert tune(source, copy, 3) == rows_of(study)
    assert before == {path: path.stat().st_mtime_ns for path in (copy / "trials").rglob("*")}


def test_other_settings_are_another_study(study: Path, source: Path) -> None:
    given = (*TINY, "--source", source, "--out", study)
    message = refused("tune", "prices-lstm", *given, "--seed", 7)
    assert "seed: 0 -> 7" in message
    assert message.count("\n") == 1
    message = refused("tune", "prices-lstm", *given, "--epochs", 3)
    assert "task.training.epochs: 2 -> 3" in message
    run = study / "trials" / "0"
    assert f"{run} is no study's folder" in refused("tune", "prices-lstm", *given[:-1], run)


def test_no_validation_split_is_refused(source: Path, tmp_path: Path) -> None:
    given = (*TINY, "--source", source, "--out", tmp_path / "study")
    message = refused("tune", "prices-lstm", *given, "--data.validation-fraction", 0)
    assert "add --data.validation-fraction 0.1" in message
    assert "--trials 0 must be at least 1" in refused("tune", "prices-lstm", "--trials", 0)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(("span", "same"), [(slice(240, 300), True), (slice(210, 240), False)])
def test_test_split_cannot_matter(
    span: slice, same: bool, study: Path, tmp_path: Path, source: Path
) -> None:
    """With the test days poisoned every loss is the same to the bit; not so the validation days."""
    poisoned = write_prices(tmp_path / "poisoned" / "ABC.csv", poisoned=span)
    assert poisoned.read_text() != source.read_text()
    losses = [row["validation_loss"] for row in tune(poisoned, tmp_path / "study", 2)]
    assert (losses == [row["validation_loss"] for row in rows_of(study)[:2]]) is same


@pytest.mark.parametrize("found_by", ["train_epoch", "validate"])
def test_diverged_trial_does_not_end_the_search(
    found_by: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a training that stops at a NaN, nor one that only the validation finds out."""
    original, tasks = getattr(loop, found_by), []

    def diverge(task: Task, *arguments: Any) -> Any:
        tasks.extend([] if task in tasks else [task])
        if task != tasks[min(1, len(tasks) - 1)] or len(tasks) < 2:
            return original(task, *arguments)
        if found_by == "train_epoch":
            raise NonFiniteLossError("the loss is nan at step 3")
        return dict.fromkeys(original(task, *arguments), float("nan"))

    monkeypatch.setattr(loop, found_by, diverge)
    arguments = (*TINY, "--source", source, "--out", tmp_path / "study", "--trials", 3)
    code, text, errors = call("tune", "prices-lstm", *arguments)
    assert code == 0, errors
    message = {"train_epoch": "the loss is nan at step 3", "validate": "the validation loss is"}
    assert f"trial 1 failed: {message[found_by]}" in text
    assert "diverged: trial 1" in text
    rows = rows_of(tmp_path / "study")
    assert [bool(row["validation_loss"]) for row in rows] == [True, False, True]
    assert rows[1]["error"].startswith(message[found_by])


def test_interrupted_command_goes_on(
    study: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second epoch of trial 1; the study that it ends with is the uninterrupted one."""
    original, epochs = loop.train_epoch, []

    def train_epoch(*arguments: Any) -> Any:
        epochs.append(None)
        if len(epochs) == 4:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(loop, "train_epoch", train_epoch)
    arguments = (*TINY, "--source", source, "--out", tmp_path / "study", "--trials", 3)
    code, _, errors = call("tune", "prices-lstm", *arguments)
    assert (code, errors) == (130, "interrupted; the same command goes on with the search\n")
    assert rows_of(tmp_path / "study") == rows_of(study)[:1]
    assert (tmp_path / "study" / "trials" / "1" / "run.json").exists()
    assert tune(source, tmp_path / "study", 3) == rows_of(study)
    assert len(epochs) == 4 + 4  # trials 1 and 2, and not trial 0


def test_missing_optuna_names_the_extra(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    given = (*TINY, "--source", source, "--out", tmp_path / "study")
    assert "pip install 'jaxmodels[tune]'" in refused("tune", "prices-lstm", *given)
    assert not (tmp_path / "study").exists()


def test_journal_torn_by_a_power_cut_is_read(tmp_path: Path) -> None:
    whole = searched(tmp_path / "whole", 5)
    searched(tmp_path / "torn", 3)
    with open(tmp_path / "torn" / "study.journal", "a") as file:
        file.write('{"op_code": 4, "wor')
    assert searched(tmp_path / "torn", 5) == whole


def bowl(task: Task) -> float:
    """Stands for a training: best at a learning rate of 0.003 and 128 hidden units."""
    distance = np.log(task.optimizer.learning_rate / 0.003) ** 2
    return float(distance + (task.model.hidden_dim != 128))  # type: ignore[union-attr]


def searched(
    folder: Path, trials: int, *, seed: int = 0, train: Callable[[int, Task], float] | None = None
) -> list[dict[str, Any]]:
    task = TASKS["prices-lstm"]
    study = tuning.open_study(folder, Run(task, "torch", "made"), seed=seed, data="made")
    judge = train or (lambda number, task: bowl(task))
    space = tuning.space_of(task)
    tuning.search(
        study,
        task,
        space,
        lambda number, task: {"validation_loss": judge(number, task)},
        trials=trials,
        seed=seed,
    )
    return tuning.finished(study)


def test_same_search_has_the_same_trials(tmp_path: Path) -> None:
    first = searched(tmp_path / "a", 14)
    assert searched(tmp_path / "b", 14) == first
    assert searched(tmp_path / "c", 14, seed=1)[0] == first[0]  # the task's own recipe
    assert searched(tmp_path / "c", 14, seed=1)[1:] != first[1:]


def test_interrupted_search_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Stopped in a trial, and between two: what is tried is the same, and nothing twice."""
    whole = searched(tmp_path / "whole", 14)

    def stop(number: int, task: Task) -> float:
        if number == 5:
            raise KeyboardInterrupt
        return bowl(task)

    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "parts", 14, train=stop)
    assert searched(tmp_path / "parts", 5) == whole[:5]
    assert searched(tmp_path / "parts", 12) == whole[:12]
    assert searched(tmp_path / "parts", 14) == whole
    rates = [row["settings"]["optimizer.learning_rate"] for row in whole]
    assert len(set(rates)) == len(rates)


def test_search_finds_what_is_better(tmp_path: Path) -> None:
    rows = searched(tmp_path, 40)
    best = tuning.ranked(rows)[0]
    assert best["settings"]["model.hidden_dim"] == 128
    assert best["validation_loss"] < 0.05 < rows[0]["validation_loss"]
    late = np.median([row["validation_loss"] for row in rows[30:]])
    assert late < np.median([row["validation_loss"] for row in rows[:10]])  # it learns


def test_failure_teaches_nothing_and_counts(tmp_path: Path) -> None:
    def diverge(number: int, task: Task) -> float:
        if number % 2:
            raise NonFiniteLossError("the loss is inf")
        return bowl(task)

    rows = searched(tmp_path, 6, train=diverge)
    assert [row["error"] for row in rows] == [None, "the loss is inf"] * 3
    assert [row["trial"] for row in tuning.ranked(rows)] == sorted(
        (0, 2, 4), key=lambda number: rows[number]["validation_loss"]
    )


@pytest.mark.parametrize("name", TASKS)
def test_every_tasks_own_recipe_is_within_its_space(name: str) -> None:
    task = TASKS[name]
    space = tuning.space_of(task)
    assert {"optimizer.learning_rate", "training.batch_size"} <= space.keys()
    for field, value in tuning.own_values(task).items():
        assert space[field]._contains(space[field].to_internal_repr(value))
    assert tuning.with_values(task, tuning.own_values(task)) == task
    changed = tuning.with_values(task, {"optimizer.learning_rate": 0.5})
    assert changed == with_settings(task, optimizer={"learning_rate": 0.5})


def test_sizes_of_a_checkpoint_are_not_searched() -> None:
    task = TASKS["imdb-bert"]
    assert "model.hidden_dim" in tuning.space_of(task)
    fine_tuned = tuning.space_of(with_settings(task, training={"pretrained": "a-checkpoint"}))
    assert {name for name in fine_tuned if name.startswith("model.")} == {"model.dropout_rate"}


def test_batch_beyond_the_data_is_not_tried() -> None:
    task = TASKS["cifar10-logistic"]

    def check(task: Task) -> None:
        if task.training.batch_size > 200:
            raise ValueError("too large")

    space = tuning.feasible(tuning.space_of(task), task, check)
    assert space["training.batch_size"].choices == (64, 128)  # type: ignore[attr-defined]
    everything = tuning.feasible(tuning.space_of(task), task, lambda task: None)
    assert everything["training.batch_size"].choices == (64, 128, 256)  # type: ignore[attr-defined]


def test_own_recipe_that_is_best_is_said_to_be() -> None:
    from parity_tests.tiny_runs import load_script

    judge = load_script("tune")._judge
    own = {"trial": 0, "validation_loss": 0.5}
    assert judge(own, own, 7).startswith("None of 7 trials is better than the recipe")
    better = judge({"trial": 3, "validation_loss": 0.4}, own, 7)
    assert "Trial 3's loss is 20.00% below" in better
    assert "one seed each" in better
    assert "diverged" in judge(own | {"trial": 3}, own | {"validation_loss": None}, 7)
